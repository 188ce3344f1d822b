"""How the three graphs are run: NumPy and ONNX Runtime only."""
