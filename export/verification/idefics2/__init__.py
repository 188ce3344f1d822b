"""What is compared of Idefics2."""
