"""Whether a model folder is its checkpoint: its numbers against the reference in float64, its weights and attributes exactly.

Imports source, quantisation and what lies below them. `python -m idefics2_onnx.export.verification` compares in another process.
"""
