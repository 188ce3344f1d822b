"""What the three graphs are: their contract (torch-free) and the torch modules they are traced from."""
