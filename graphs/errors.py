"""The errors that belong to the model folder, which exporter and runtime share.

The whole tree::

    Idefics2OnnxError
    ├── ModelFolderError (FileNotFoundError)   a model folder or a file in it is missing, damaged or of another make
    ├── ProviderError                          an execution provider that was asked for does not work     (runtime)
    ├── PromptError (ValueError)               a prompt, a chat or its options cannot be used             (runtime)
    │   └── PromptTooLongError                 it does not fit the model together with its answer         (runtime)
    ├── ImageError (ValueError)                an image cannot be read or processed                       (runtime)
    ├── BatchError                             a batch's questions or answers cannot be read or written    (runtime)
    ├── ServerError                            a server cannot be started                                 (runtime)
    ├── RayError                               a cluster cannot be used, or a worker on it ended           (on_ray)
    ├── UploadError                            a folder could not be uploaded to the hub                  (runtime)
    ├── CheckpointError (ValueError)           a checkpoint cannot be exported                            (export)
    ├── ParityError (ArithmeticError)          an exported graph computes something else than the reference (export)
    └── RequirementError (ImportError)         a package that exporting needs is missing or unfit           (export)

Every message states the fact, with its numbers or names, and then what to do.
"""


class Idefics2OnnxError(Exception):
    """Base of every error this package raises on purpose."""

    def __str__(self) -> str:
        """The message on one line, whatever stands in the names and values that it repeats."""
        return printable(super().__str__())


class ModelFolderError(Idefics2OnnxError, FileNotFoundError):
    """A model folder cannot be used: a file is missing or damaged, or a graph does not match the contract."""


def printable(text: str) -> str:
    """A text on one line, with what would change a terminal written out."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
