"""What a worker opens, wherever it is started: a model folder that is the driver's, on a share of a node."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..graphs.contract import data_file
from ..runtime.batch.recipe import digest_of
from ..runtime.devices.device import graph_devices
from ..runtime.devices.gpu_options import GpuOptions
from ..runtime.errors import ProviderError
from ..runtime.folder import ModelFolder
from ..runtime.generation.scheduler import USUAL_TOKENS
from ..runtime.model import load
from ..runtime.vision_language_model import VisionLanguageModel

_BESIDES = 600 << 20
"""Bytes of a process that hold neither weights nor keys and values: Python, Ray, ONNX Runtime, pictures that are decoded."""
_NUMBER = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True)
class Opening:
    """A model and what it may take of a node.

    Attributes:
        path: of the folder, the same on every node.
        digest: of its manifest: a folder that differs is not opened.
        cpus: cores, and threads of ONNX Runtime.
        memory: bytes that Ray keeps free for it.
        gpus: 1 or 0.
    """

    path: str
    digest: str
    device: str
    cpus: int
    memory: int
    gpus: int
    gpu_options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: ModelFolder, device: str, cpus: int, rows: int, gpu_options: dict[str, Any] | None = None) -> Opening:
        """An opening of the driver's own folder, for so many answers at once; ProviderError for a second GPU."""
        where = set(graph_devices(device).values())
        gpus = int(any(each.memory == "cuda" for each in where))
        if any(each.index for each in where):
            raise ProviderError(f"Ray gives each actor its own GPU, and {device} names one by its number. Name none.")
        path = folder.path.resolve()
        memory = memory_bytes(folder, rows, gpus > 0)
        return cls(str(path), digest_of(folder), device, cpus, memory, gpus, gpu_options or {})

    @property
    def resources(self) -> dict[str, Any]:
        """The same as Ray's options of an actor."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, "memory": self.memory}

    def open(self, prefix_cache: int = 0) -> VisionLanguageModel:
        """The model, with so many bytes for known prompts; Idefics2OnnxError says what is wrong on this node."""
        folder = ModelFolder.open(Path(self.path))
        if digest_of(folder) != self.digest:
            raise ProviderError(f"{self.path} holds another model there. Copy the folder to every node.")
        import onnxruntime as ort  # slow to import, and the driver needs none

        session = ort.SessionOptions()
        session.intra_op_num_threads = self.cpus
        return load(
            self.path,
            self.device,
            session_options=session,
            gpu_options=GpuOptions(**self.gpu_options),
            prefix_cache=prefix_cache,
            spinning=False,
        )


def memory_bytes(folder: ModelFolder, rows: int, on_gpu: bool) -> int:
    """Bytes of a node's memory that a model takes with so many answers at once, by its manifest.

    Weights are as large as their files, and as fp16 twice that on a CPU, which computes in fp32. On a GPU, what is read from the
    files passes through the node's memory graph by graph.
    """
    manifest, sizes = folder.manifest, folder.manifest.model
    weights = {graph: manifest.files[data_file(graph)].size for graph in manifest.graphs}
    if on_gpu:
        return max(weights.values()) + _BESIDES
    widened = sum(size * (2 if manifest.precision[graph] == "fp16" else 1) for graph, size in weights.items())
    token = 2 * sizes.num_layers * sizes.num_key_value_heads * sizes.head_dim * _NUMBER[manifest.dtype]
    return widened + rows * min(USUAL_TOKENS, sizes.max_positions) * token + _BESIDES
