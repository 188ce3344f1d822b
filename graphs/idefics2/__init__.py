"""Idefics2's three graphs as torch modules."""
