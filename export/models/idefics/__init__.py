"""IDEFICS, the first."""
