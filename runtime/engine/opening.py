"""The engine of a model folder, by the model that it holds."""

from __future__ import annotations

from ...graphs.contract import Architecture
from ..devices.device import CPU, CUDA, on_gpu
from ..devices.sessions import Sessions
from ..folder import ModelFolder
from ..memory.feature_cache import FeatureCache
from .argmax import open_argmax
from .engine import Engine
from .idefics2_engine import Idefics2Engine
from .idefics_engine import IdeficsEngine

_ENGINES: dict[Architecture, type[Engine]] = {"idefics2": Idefics2Engine, "idefics": IdeficsEngine}


def open_engine(folder: ModelFolder, sessions: Sessions, image_cache: int = 0) -> Engine:
    """The graphs as verbs, with so many bytes for image features."""
    argmax = None
    if sessions.memory == "cuda" and sessions.gpu_options.argmax:
        argmax = open_argmax([(CUDA, on_gpu(sessions.gpu)), CPU])
    manifest = folder.manifest
    return _ENGINES[manifest.architecture](sessions, manifest.model, manifest.precision, FeatureCache(image_cache), argmax)
