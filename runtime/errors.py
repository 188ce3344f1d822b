"""The runtime's errors; the whole tree is drawn in graphs/errors.py."""

from collections.abc import Iterator
from contextlib import contextmanager

from ..graphs.errors import Idefics2OnnxError, ModelFolderError, printable


class ProviderError(Idefics2OnnxError):
    """An execution provider that was asked for is missing, failed to load, or cannot run this model."""


class PromptError(Idefics2OnnxError, ValueError):
    """A prompt, a conversation or an option of a call cannot be used."""


class PromptTooLongError(PromptError):
    """A prompt and its answer together are longer than the model, or the call, takes."""


class ServerError(Idefics2OnnxError):
    """A server cannot be started as it was asked to."""


class Overloaded(Idefics2OnnxError):  # noqa: N818 - says what a server is
    """A scheduler's queue is full.

    Attributes:
        waiting: how many requests it holds.
    """

    def __init__(self, message: str, waiting: int) -> None:
        super().__init__(message)
        self.waiting = waiting


class Cancelled(Idefics2OnnxError):  # noqa: N818 - nothing went wrong
    """A request was cancelled before its answer was whole."""


class BatchError(Idefics2OnnxError):
    """A batch's questions cannot be read, or its answers not be written."""


class ImageError(Idefics2OnnxError, ValueError):
    """An image cannot be read or processed."""


@contextmanager
def readable(kind: type[Idefics2OnnxError]) -> Iterator[None]:
    """Turns what the system says of a file that it does not let us read into an error of this kind; also a decorator."""
    try:
        yield
    except Idefics2OnnxError:  # ModelFolderError is an OSError, too
        raise
    except OSError as error:
        raise kind(
            f"{error.filename} cannot be read ({error.strerror}). Check its permissions, its folder's, and the disk."
        ) from error


def first_line(error: BaseException) -> str:
    """What another library's exception says, in one printable line of at most 300 characters; its name if it says nothing."""
    line = (str(error)[:10_000].strip() or type(error).__name__).splitlines()[0].strip()
    return shown(line, 300).rstrip(".")


def shown(name: object, longest: int = 200) -> str:
    """A stranger's text as an error repeats it: on one line, without what would change a terminal, and no longer than this."""
    return printable(str(name)[:longest])[:longest]


__all__ = [
    "BatchError",
    "Cancelled",
    "Idefics2OnnxError",
    "ImageError",
    "ModelFolderError",
    "Overloaded",
    "PromptError",
    "PromptTooLongError",
    "ProviderError",
    "ServerError",
    "first_line",
    "readable",
    "shown",
]
