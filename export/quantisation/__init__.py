"""Fewer bits for the weights: what is measured for it, how outliers are evened out, which matrices get how many.

Imports source and the ground of export."""
