"""The model that ships with the package: for now, small random weights in the real layout."""
