"""What is compared of IDEFICS."""
