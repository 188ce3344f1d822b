"""The runtime's errors; the whole tree is drawn in graphs/errors.py."""

from ..graphs.errors import Idefics2OnnxError, ModelFolderError


class ProviderError(Idefics2OnnxError):
    """An execution provider that was asked for is missing, failed to load, or cannot run this model."""


class PromptError(Idefics2OnnxError, ValueError):
    """A prompt, a conversation or an option of a call cannot be used."""


class ImageError(Idefics2OnnxError, ValueError):
    """An image cannot be read or processed."""


__all__ = ["Idefics2OnnxError", "ImageError", "ModelFolderError", "PromptError", "ProviderError"]
