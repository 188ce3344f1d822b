"""How the three graphs are made: checkpoint → trace → weights → model folder → verification (needs the [export] extra)."""

try:
    from .listener import Listener
    from .pipeline import ExportReport, export_model
    from .quantise import Quantisation
    from .verification.agreement import Agreement, agreement, open_layered
    from .verification.difference import Verification
    from .verification.verify import verify_folder
except ModuleNotFoundError as error:
    if error.name in ("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "safetensors"):
        raise ModuleNotFoundError(
            f"Exporting needs {error.name}, which is not installed. Run: pip install 'idefics2-onnx[export]'", name=error.name
        ) from error
    raise

__all__ = [
    "Agreement",
    "ExportReport",
    "Listener",
    "Quantisation",
    "Verification",
    "agreement",
    "export_model",
    "open_layered",
    "verify_folder",
]
