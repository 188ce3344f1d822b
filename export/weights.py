"""Stream a graph's weights from the checkpoint to disk: a few rows at a time in, a band at a time out, hashed on the way."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from ..graphs.contract import FileEntry, data_file, graph_file
from .awq import AwqMatrix
from .packing import Groups
from .source_model import SourceModel
from .trace import TracedGraph, Weight

BLOCK = 32 << 20
"""Bytes of a checkpoint read at once."""
BAND = 160 << 20
"""Bytes of a transposed tensor held at once. A larger one is read as many times as it has bands of this size."""
_PAGE, _PAGED_FROM, _LINE = 4096, 1 << 20, 64
"""Tensors from 1 MiB start on a page, so that they can be mapped one by one; smaller ones on a cache line."""

Progress = Callable[[int], None]
"""Told how many bytes were just written."""


def graph_bytes(graph: TracedGraph) -> int:
    """Size of the graph's weights on disk, up to alignment."""
    packed = (name for weight in graph.packed for name in weight.initializers)
    return sum(_bytes(graph, name) for name in (*graph.weights, *packed))


def write_graph(graph: TracedGraph, model: SourceModel, folder: Path, progress: Progress) -> dict[str, FileEntry]:
    """Write ``<graph>.onnx`` and ``<graph>.onnx.data`` into `folder`; returns their sizes and hashes."""
    location, digest, offset, written = data_file(graph.name), hashlib.sha256(), 0, ""
    with (folder / location).open("wb") as file:
        for name, part in _ahead(_data(graph, model)):
            if name != written:  # a new tensor begins
                value = graph.model.graph.initializers[name]
                length = _bytes(graph, name)
                padding = bytes(-offset % (_PAGE if length >= _PAGED_FROM else _LINE))
                file.write(padding)
                digest.update(padding)
                offset += len(padding)
                assert value.dtype is not None
                value.const_value = ir.ExternalTensor(
                    location, offset, length, value.dtype, shape=_shape(graph, name), name=name, base_dir=folder
                )
                offset += length
                written = name
            data: Any = part.contiguous().view(-1).view(torch.uint8).numpy()
            file.write(data)
            digest.update(data)
            progress(data.nbytes)
            del part, data  # before the next one is made
        assert file.tell() == offset, f"{location} has {file.tell()} bytes instead of {offset}"
    proto = ir.to_proto(graph.model).SerializeToString()
    (folder / graph_file(graph.name)).write_bytes(proto)
    return {
        graph_file(graph.name): FileEntry(len(proto), hashlib.sha256(proto).hexdigest()),
        location: FileEntry(offset, digest.hexdigest()),
    }


def _ahead(parts: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The same, each made while the one before is being written."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, parts, None)
        while (part := coming.result()) is not None:
            coming = pool.submit(next, parts, None)
            yield part
            del part


def _data(graph: TracedGraph, model: SourceModel) -> Iterator[tuple[str, Tensor]]:
    """All weights, a part at a time, each with its initializer's name."""
    for name, weight in graph.weights.items():
        for part in _parts(weight, model):
            yield name, part
    for packed in graph.packed:
        stored, packing = model.stored(packed.source), packed.packing
        rows, columns = stored.shape
        if isinstance(stored, AwqMatrix) and isinstance(packing, Groups) and packing.bits == 4:
            data = packing.keep(rows, columns, stored.integers)
        else:
            data = packing.pack(rows, columns, stored.read)
        for index, part in data:
            yield packed.initializers[index], part


def _shape(graph: TracedGraph, name: str) -> ir.Shape:
    shape = graph.model.graph.initializers[name].shape
    assert shape is not None
    return shape


def _bytes(graph: TracedGraph, name: str) -> int:
    dtype = graph.model.graph.initializers[name].dtype
    assert dtype is not None
    return int(math.prod(_shape(graph, name).numpy()) * dtype.itemsize)


def _parts(weight: Weight, model: SourceModel) -> Iterator[Tensor]:
    """A weight's data in order, cast and transposed, in as many parts as memory asks for."""
    if isinstance(weight.source, Tensor):
        yield weight.source.to(weight.dtype)
        return
    stored = model.stored(weight.source)
    shape = stored.shape or (1,)
    row = torch.Size(shape[1:]).numel() * stored.dtype.itemsize
    step = max(1, BLOCK // row)
    blocks = [(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]
    if not weight.transposed:
        for start, stop in blocks:
            yield stored.read(start, stop).to(weight.dtype)
        return
    width = max(1, BAND // (shape[0] * weight.dtype.itemsize))
    for left in range(0, shape[1], width):
        band = torch.empty(min(width, shape[1] - left), shape[0], dtype=weight.dtype)
        for start, stop in blocks:
            # Cast first: transposing the smaller type moves fewer bytes.
            band[:, start:stop] = stored.read(start, stop)[:, left : left + width].to(weight.dtype).T
        yield band
        del band  # before the next one is made
