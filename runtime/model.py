"""The models, and the choice between them by what a folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..graphs.contract import Architecture
from .folder import ModelFolder
from .inputs.idefics2_processor import Idefics2Processor
from .inputs.idefics_processor import IdeficsProcessor
from .vision_language_model import VisionLanguageModel


class Idefics2(VisionLanguageModel):
    """Idefics2 on ONNX Runtime, from a model folder.

    One model may be used from several threads at once: each call has its own cache, the graphs run side by side on ONNX
    Runtime's threads, and the caches of images and prefixes are shared. A `Chat` belongs to one thread at a time. A process may
    fork while no thread generates, and children that opened no model before may open their own.

    It is a context manager, too, which frees the graphs at its end: ``with Idefics2.from_pretrained(...) as model``.
    """

    architecture = "idefics2"
    processor: Idefics2Processor


class Idefics(VisionLanguageModel):
    """IDEFICS, the first model, on ONNX Runtime, from a model folder: all that `Idefics2` is and does."""

    architecture = "idefics"
    processor: IdeficsProcessor


_MODELS: dict[Architecture, type[Idefics2 | Idefics]] = {"idefics2": Idefics2, "idefics": Idefics}


def load(
    source: str | Path | None = None, device: str = "auto", *, revision: str | None = None, subfolder: str = "", **options: Any
) -> Idefics2 | Idefics:
    """Open a model folder with the class that its manifest names; arguments and errors as those of `Idefics2.from_pretrained`."""
    folder = ModelFolder.open(source, revision, subfolder)
    return _MODELS[folder.manifest.architecture].open(folder, device, **options)
