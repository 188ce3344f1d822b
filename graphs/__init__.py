"""What the graphs are: their contract (torch-free), and for each model the torch modules they are traced from."""
