"""How the three graphs are run: NumPy and ONNX Runtime only."""

import os

# ONNX Runtime 1.29 and later count their uses in a file below the home folder and report them, unless this is there before it is
# imported. Whoever wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
