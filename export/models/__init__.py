"""What each model has of its own before its weights: config, sizes, graphs to trace, and which parameters stand in them.

Imports graphs and the ground of export. A folder per model; the other rooms ask `family_of` and know none by name.
"""
