"""Which token comes next: the options of a generation, and the rules, samplers and beams that follow them.

Imports text (for stop strings in beams) and the ground."""
