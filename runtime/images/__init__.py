"""A file becomes tiles: which pictures are opened, how they are turned, resized, split, normalised and padded.

Imports the ground and outside only."""
