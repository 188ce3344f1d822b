"""IDEFICS' four graphs as torch modules."""
