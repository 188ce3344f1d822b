"""Whether a model folder is its checkpoint: its numbers against the reference in float64, its weights and attributes exactly."""
