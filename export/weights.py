"""Stream a graph's weights from the checkpoint to disk: a few rows at a time in, a band at a time out, hashed on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from ..graphs.contract import FileEntry, data_file, graph_file
from .checkpoint import Checkpoint
from .trace import ONNX_DTYPES, TracedGraph, Weight

BLOCK = 32 << 20
"""Bytes of a checkpoint read at once."""
BAND = 160 << 20
"""Bytes of a transposed tensor held at once. A larger one is read as many times as it has bands of this size."""
_PAGE, _PAGED_FROM, _LINE = 4096, 1 << 20, 64
"""Tensors from 1 MiB start on a page, so that they can be mapped one by one; smaller ones on a cache line."""

Progress = Callable[[int], None]
"""Told how many bytes were just written."""


def weight_shape(graph: TracedGraph, name: str) -> tuple[int, ...]:
    """Shape of an initializer, as the graph reads it."""
    shape = graph.model.graph.initializers[name].shape
    assert shape is not None
    return shape.numpy()


def graph_bytes(graph: TracedGraph) -> int:
    """Size of the graph's weights on disk, up to alignment."""
    return sum(torch.Size(weight_shape(graph, name)).numel() * w.dtype.itemsize for name, w in graph.weights.items())


def write_graph(
    graph: TracedGraph, checkpoint: Checkpoint, names: dict[str, str], folder: Path, progress: Progress
) -> dict[str, FileEntry]:
    """Write ``<graph>.onnx`` and ``<graph>.onnx.data`` into `folder`; returns their sizes and hashes.

    `names` maps the model's parameters to the checkpoint's tensors.
    """
    location, digest, offset = data_file(graph.name), hashlib.sha256(), 0
    with (folder / location).open("wb") as file:
        for name, weight in graph.weights.items():
            shape = weight_shape(graph, name)
            length = torch.Size(shape).numel() * weight.dtype.itemsize
            padding = bytes(-offset % (_PAGE if length >= _PAGED_FROM else _LINE))
            file.write(padding)
            digest.update(padding)
            offset += len(padding)
            graph.model.graph.initializers[name].const_value = ir.ExternalTensor(
                location, offset, length, ONNX_DTYPES[weight.dtype], shape=ir.Shape(shape), name=name, base_dir=folder
            )
            for part in _parts(weight, checkpoint, names):
                data: Any = part.contiguous().view(-1).view(torch.uint8).numpy()
                file.write(data)
                digest.update(data)
                progress(data.nbytes)
                del part, data  # before the next one is made
            offset += length
    proto = ir.to_proto(graph.model).SerializeToString()
    (folder / graph_file(graph.name)).write_bytes(proto)
    return {
        graph_file(graph.name): FileEntry(len(proto), hashlib.sha256(proto).hexdigest()),
        location: FileEntry(offset, digest.hexdigest()),
    }


def _parts(weight: Weight, checkpoint: Checkpoint, names: dict[str, str]) -> Iterator[Tensor]:
    """A weight's data in order, cast and transposed, in as many parts as memory asks for."""
    if isinstance(weight.source, Tensor):
        yield weight.source.to(weight.dtype)
        return
    name = names[weight.source]
    stored = checkpoint.tensors[name]
    shape = stored.shape or (1,)
    row = torch.Size(shape[1:]).numel() * stored.dtype.itemsize
    step = max(1, BLOCK // row)
    blocks = [(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]
    if not weight.transposed:
        for start, stop in blocks:
            yield checkpoint.read(name, start, stop).to(weight.dtype)
        return
    width = max(1, BAND // (shape[0] * weight.dtype.itemsize))
    for left in range(0, shape[1], width):
        band = torch.empty(min(width, shape[1] - left), shape[0], dtype=weight.dtype)
        for start, stop in blocks:
            # Cast first: transposing the smaller type moves fewer bytes.
            band[:, start:stop] = checkpoint.read(name, start, stop)[:, left : left + width].to(weight.dtype).T
        yield band
        del band  # before the next one is made
