"""The exporter's errors; the whole tree is drawn in graphs/errors.py."""

from ..graphs.errors import Idefics2OnnxError
from ..runtime.errors import shown


class CheckpointError(Idefics2OnnxError, ValueError):
    """A checkpoint cannot be exported: of another model, not in safetensors, incomplete, or with options no graph has."""


class ParityError(Idefics2OnnxError, ArithmeticError):
    """An exported graph's outputs differ from the reference's by more than the stated floor."""


class RequirementError(Idefics2OnnxError, ImportError):
    """A package that exporting needs is not installed, cannot be imported, or has not what the exporter calls."""


def reason(error: BaseException) -> str:
    """What another library's exception says, its lines as one of at most 300 characters; its name if it says nothing."""
    return shown(" ".join(str(error)[:10_000].split()) or type(error).__name__, 300)
