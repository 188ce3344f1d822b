"""The model that ships with the package: what it is asked, how it was trained, and how good it is."""
