"""Stream a graph's weights from the checkpoint to disk: a few rows at a time in, a band at a time out, hashed on the way."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from ..graphs.contract import FileEntry, data_file, graph_file
from ..runtime.parallel import in_parallel
from .ahead import ahead
from .bundle import Workplace
from .direct_io import DirectWriter
from .heap import empty
from .journal import Journal
from .packing import Groups, Packing
from .source.awq import AwqMatrix
from .source.checkpoint import Stored
from .source.source_model import SourceModel
from .trace import PackedWeight, TracedGraph, Weight

BLOCK = 32 << 20
"""Bytes of a checkpoint read at once."""
BAND = 112 << 20
"""Bytes of a transposed tensor held at once. A larger one is read as many times as it has bands of this size."""
_PATCH = 2 << 20
"""Bytes of it transposed at once: they stay in a core's cache."""
_PAGE, _PAGED_FROM, _LINE = 4096, 1 << 20, 64
"""Tensors from 1 MiB start on a page, so that they can be mapped one by one; smaller ones on a cache line."""

Progress = Callable[[int], None]
"""Told how many bytes were just written."""


def graph_bytes(graph: TracedGraph) -> int:
    """Size of the graph's weights on disk, up to alignment."""
    packed = (name for weight in graph.packed for name in weight.initializers)
    return sum(_bytes(graph, name) for name in (*graph.weights, *packed))


def write_graph(graph: TracedGraph, model: SourceModel, workplace: Workplace, progress: Progress) -> dict[str, FileEntry]:
    """Write ``<graph>.onnx`` and ``<graph>.onnx.data`` into the workplace's folder; returns their sizes and hashes.

    Weights that an interrupted run has written whole are kept, as far as its journal vouches for them.
    """
    folder, location = workplace.folder, data_file(graph.name)
    items = _items(graph, model)
    spans = _spans(graph, items, folder)
    ends = [sum(spans[item.names[-1]]) for item in items]
    journal = Journal(workplace.root / f"{location}.journal", folder / location)
    kept, digest = journal.resume(ends, progress)
    left = [item for item, end in zip(items, ends, strict=True) if end > kept]
    with DirectWriter(folder / location, kept) as file:
        try:
            for name, part in ahead(itertools.chain.from_iterable(item.data() for item in left)):
                padding = np.zeros(max(0, spans[name][0] - file.position), np.uint8)  # before a tensor's first part
                data = part.contiguous().view(-1).view(torch.uint8).numpy()
                for piece in (padding, data):
                    digest.update(piece.data)
                    file.write(piece)
                if file.position in ends:
                    journal.reach(file.position, digest, file)
                progress(data.nbytes)
                del part, data, piece  # before the next one is made
        except BaseException:
            journal.record(file)
            raise
        assert file.position == (ends or [0])[-1], f"{location} has {file.position} bytes instead of {ends[-1]}"
        file.finish()
        journal.record(file)
    proto = ir.to_proto(graph.model).SerializeToString()
    (folder / graph_file(graph.name)).write_bytes(proto)
    return {
        graph_file(graph.name): FileEntry(len(proto), hashlib.sha256(proto).hexdigest()),
        location: FileEntry(ends[-1] if ends else 0, digest.hexdigest()),
    }


@dataclass(frozen=True)
class _Item:
    """What comes from one tensor of the checkpoint."""

    names: tuple[str, ...]
    """Initializers, in the order of their data."""
    data: Callable[[], Iterator[tuple[str, Tensor]]]
    """A part at a time, each with its initializer's name."""


def _items(graph: TracedGraph, model: SourceModel) -> list[_Item]:
    plain = [_Item((name,), partial(_plain_data, name, weight, model)) for name, weight in graph.weights.items()]
    return plain + [_Item(packed.initializers, partial(_packed_data, packed, model)) for packed in graph.packed]


def _spans(graph: TracedGraph, items: list[_Item], folder: Path) -> dict[str, tuple[int, int]]:
    """Offset and length of each initializer's data, written into the graph, too."""
    found, offset, location = {}, 0, data_file(graph.name)
    for name in (name for item in items for name in item.names):
        value, length = graph.model.graph.initializers[name], _bytes(graph, name)
        offset += -offset % (_PAGE if length >= _PAGED_FROM else _LINE)
        assert value.dtype is not None
        value.const_value = ir.ExternalTensor(
            location, offset, length, value.dtype, shape=_shape(graph, name), name=name, base_dir=folder
        )
        found[name] = offset, length
        offset += length
    return found


def _plain_data(name: str, weight: Weight, model: SourceModel) -> Iterator[tuple[str, Tensor]]:
    return ((name, part) for part in _parts(weight, model))


def _packed_data(packed: PackedWeight, model: SourceModel) -> Iterator[tuple[str, Tensor]]:
    return ((packed.initializers[index], part) for index, part in packed_parts(packed.packing, model.stored(packed.origin)))


def packed_parts(packing: Packing, stored: Stored) -> Iterator[tuple[int, Tensor]]:
    """A matrix in small numbers: the data of each of the packing's parts in order, a piece at a time, with the part's index."""
    rows, columns = stored.shape
    if isinstance(packing, Groups) and packing.kept:
        assert isinstance(stored, AwqMatrix)
        return packing.keep(rows, columns, stored.integers)
    return packing.pack(rows, columns, stored.read)


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
    if isinstance(weight.origin, Tensor):
        yield weight.origin.to(weight.dtype)
        return
    stored = model.stored(weight.origin)
    shape = stored.shape or (1,)
    row = torch.Size(shape[1:]).numel() * stored.dtype.itemsize
    if not weight.transposed:
        for start, stop in _blocks(shape[0], BLOCK // row):
            yield stored.read(start, stop).to(weight.dtype)
        return
    width = max(1, BAND // (shape[0] * weight.dtype.itemsize))
    for left in range(0, shape[1], width):
        band = empty((min(width, shape[1] - left), shape[0]), weight.dtype)

        def fill(rows: tuple[int, int], band: Tensor = band, left: int = left) -> None:
            # torch transposes in squares, which is fast, only into a tensor that lies in one piece.
            part = stored.read(*rows)[:, left : left + width].to(weight.dtype)
            band[:, slice(*rows)] = part.T.contiguous()

        in_parallel(fill, _blocks(shape[0], _PATCH // row))
        yield band
        del band, fill  # before the next one is made


def _blocks(rows: int, step: int) -> list[tuple[int, int]]:
    step = max(1, step)
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]
