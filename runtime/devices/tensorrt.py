"""What TensorRT has to know of a graph before it can run it: the range of every input's shape, and where to keep its engines."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...graphs.contract import GraphName, Manifest, data_file, graph_file, interface
from ..errors import ProviderError
from .device import on_gpu

IMAGES_PER_CALL = 4
"""Engines are built for so many images of one size at most."""
ROWS, NEW_TOKENS, TOKENS = 8, 512, 8192
"""And decoders for so many rows, new tokens and tokens in the cache, or the model's most positions if they are fewer."""
_log = logging.getLogger("idefics2_onnx")


@dataclass(frozen=True)
class ShapeRange:
    """The least, the most usual and the largest length of an axis."""

    least: int
    usual: int
    most: int


def axes(graph: GraphName, manifest: Manifest) -> dict[str, ShapeRange]:
    """Ranges of a graph's axes, by their names in the contract."""
    sizes = manifest.model
    side = sizes.patch_size * sizes.positions_per_side
    tokens = min(TOKENS, sizes.max_positions)
    if graph == "vision":
        pixels = ShapeRange(sizes.patch_size, side, side)
        return {"num_images": ShapeRange(1, 1, IMAGES_PER_CALL), "height": pixels, "width": pixels}
    seq = ShapeRange(1, 1, min(NEW_TOKENS, tokens))
    return {
        "batch_size": ShapeRange(1, 1, ROWS), "seq": seq, "k": ShapeRange(1, 1, seq.most),
        "num_rows": ShapeRange(0, 1, tokens), "total_seq": ShapeRange(1, tokens, tokens), "past": ShapeRange(1, tokens, tokens),
    }  # fmt: skip


def profile(graph: GraphName, manifest: Manifest) -> dict[str, str]:
    """TensorRT's optimisation profile of a graph, as the provider's options spell it."""
    ranges = axes(graph, manifest)
    inputs = interface(graph, manifest.dtype, manifest.model).inputs

    def shapes(which: str) -> str:
        def length(axis: int | str) -> int:
            return axis if isinstance(axis, int) else int(getattr(ranges[axis], which))

        return ",".join(f"{tensor.name}:{'x'.join(str(length(axis)) for axis in tensor.axes)}" for tensor in inputs)

    return {
        f"trt_profile_{option}_shapes": shapes(which) for option, which in (("min", "least"), ("opt", "usual"), ("max", "most"))
    }


def options(graph: GraphName, manifest: Manifest, gpu: int, memory_limit: float | None) -> dict[str, Any]:
    """Options of TensorrtExecutionProvider for a graph; its engines are kept by the graph's content.

    Not among them: leave to choose a precision (trt_fp16_enable). Without it ONNX Runtime has TensorRT keep to the graph's types,
    and half precision would overflow in the connector, which is float32 in fp16 folders, too.
    """
    engines = engine_folder(graph, manifest)
    found = on_gpu(gpu) | {
        "trt_engine_cache_enable": "1", "trt_engine_cache_path": str(engines),
        "trt_timing_cache_enable": "1", "trt_timing_cache_path": str(engines.parent),
    }  # fmt: skip
    if manifest.attention == "standard":
        found |= profile(graph, manifest)  # of a graph in pieces it would have to name every piece's inputs
    if memory_limit is not None:
        found["trt_max_workspace_size"] = str(int(memory_limit))
    return found


def engine_folder(graph: GraphName, manifest: Manifest) -> Path:
    """Where a graph's engines are kept: under XDG_CACHE_HOME, else ~/.cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    content = "-".join(
        manifest.files[file].sha256[:16] for file in (graph_file(graph), data_file(graph)) if file in manifest.files
    )
    return cache / "idefics2-onnx" / "tensorrt" / content


def announce(graph: GraphName, options: dict[str, Any]) -> None:
    """Make the folder that options name for a graph's engines, and say so where they have yet to be built.

    Raises:
        ProviderError: it cannot be made.
    """
    if "trt_engine_cache_path" not in options:
        return
    folder = Path(options["trt_engine_cache_path"])
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProviderError(f"TensorRT's engines cannot be kept in {folder} ({error.strerror}). Set XDG_CACHE_HOME.") from error
    if not any(folder.glob("*.engine")):
        _log.warning(
            "TensorRT builds engines for %s, which takes minutes; later runs find them in %s.", graph_file(graph), folder
        )
