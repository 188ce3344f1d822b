"""Idefics2 and IDEFICS on ONNX Runtime, without PyTorch.

from idefics2_onnx import Idefics2

model = Idefics2.from_pretrained("idefics2-8b-fp16")
print(model.generate("What is in this picture?", images=["photo.jpg"]).text)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .graphs.errors import Idefics2OnnxError, ModelFolderError
    from .runtime.devices.gpu_options import GpuOptions
    from .runtime.errors import Cancelled, ImageError, Overloaded, PromptError, ProviderError
    from .runtime.generation.answer import Generation
    from .runtime.generation.mapping import Outcome
    from .runtime.generation.scheduler import Scheduler
    from .runtime.images.idefics2_image_processor import Idefics2ImageProcessor
    from .runtime.images.idefics_image_processor import IdeficsImageProcessor
    from .runtime.inputs.idefics2_processor import Idefics2Processor
    from .runtime.inputs.idefics_processor import IdeficsProcessor
    from .runtime.model import Idefics, Idefics2, load

__version__ = "0.1.0"

_HOMES = {
    "Cancelled": "runtime.errors",
    "GpuOptions": "runtime.devices.gpu_options",
    "Generation": "runtime.generation.answer",
    "Idefics": "runtime.model",
    "Idefics2": "runtime.model",
    "Idefics2ImageProcessor": "runtime.images.idefics2_image_processor",
    "Idefics2OnnxError": "graphs.errors",
    "Idefics2Processor": "runtime.inputs.idefics2_processor",
    "IdeficsImageProcessor": "runtime.images.idefics_image_processor",
    "IdeficsProcessor": "runtime.inputs.idefics_processor",
    "ImageError": "runtime.errors",
    "ModelFolderError": "graphs.errors",
    "Outcome": "runtime.generation.mapping",
    "Overloaded": "runtime.errors",
    "PromptError": "runtime.errors",
    "ProviderError": "runtime.errors",
    "Scheduler": "runtime.generation.scheduler",
    "load": "runtime.model",
}

__all__ = [
    "Cancelled",
    "Generation",
    "GpuOptions",
    "Idefics",
    "Idefics2",
    "Idefics2ImageProcessor",
    "Idefics2OnnxError",
    "Idefics2Processor",
    "IdeficsImageProcessor",
    "IdeficsProcessor",
    "ImageError",
    "ModelFolderError",
    "Outcome",
    "Overloaded",
    "PromptError",
    "ProviderError",
    "Scheduler",
    "load",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that importing the package is quick."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name!r:.60}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
