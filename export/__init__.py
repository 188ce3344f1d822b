"""How a model's graphs are made: checkpoint → trace → weights → model folder → verification (needs the [export] extra)."""

from ..runtime.outside.requirement import explain
from .errors import RequirementError

try:
    from .listener import Listener
    from .pipeline import ExportReport, export_model
    from .quantisation.quantise import Quantisation
    from .verification.agreement import Agreement, agreement, open_layered
    from .verification.difference import Verification
    from .verification.verify import verify_folder
except Exception as error:  # a package that is missing, or of a version that fails in its own way as it is imported
    # The extra export brings no ONNX Runtime: which one is for the user to choose.
    if reason := explain(error, "export", "cpu"):
        raise RequirementError(reason) from error
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
