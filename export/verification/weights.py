"""A folder's weights, number by number: the checkpoint's in the folder's type, or what packing them again gives."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor

from ...graphs.contract import GraphName, Manifest
from ...runtime.parallel import in_parallel
from ..packing import Packing, ReadRows
from ..quantisation.quantise import Quantisation
from ..source.checkpoint import FileTensor, Stored
from ..source.source_model import SourceModel
from ..trace import joins_projections
from ..weights import packed_parts
from .folder_matrix import parameter_of
from .graphs import load_graph, stored_tensors
from .reference import as_quantised

_NUMBERS = 1 << 21
"""Compared at once."""
_PARTS = ("quantised", "scales", "zeros")
_COMPUTED = ("cos", "sin", "positions")
"""Tables that are no parameters of the checkpoint."""


@dataclass(frozen=True)
class WeightsCheck:
    """One graph's weights beside the checkpoint's."""

    folder: Path
    manifest: Manifest
    graph: GraphName
    source: SourceModel
    """With the factors that were moved before the graph was quantised."""

    @classmethod
    def of(cls, folder: Path, manifest: Manifest, source: SourceModel, graph: GraphName) -> WeightsCheck:
        return cls(folder, manifest, graph, as_quantised(folder, manifest, source, graph))

    def faults(self) -> Iterator[str | None]:
        """For each weight that the graph must have, None or what is wrong with it."""
        model = load_graph(self.folder, self.graph)
        tensors = stored_tensors(model)
        used = {value.name for node in _reaching(model) for value in node.inputs if value is not None}
        for name in (n for n in tensors if n not in used):
            yield f"{self.graph}.onnx has the weight {name}, which leads to no output"
        found: dict[str, dict[str, FileTensor]] = {}
        for name, tensor in tensors.items():
            stem, _, part = name.rpartition(".")
            key = f"{stem}.weight" if part in _PARTS else name.removesuffix(".T")
            parameter = key if key in _COMPUTED else parameter_of(key, self.source.family)
            found.setdefault(parameter, {})[part if part in _PARTS else name] = tensor
        wanted = set(self._parameters())
        for parameter in sorted(wanted - set(found)):
            yield f"{self.graph}.onnx lacks the weight {parameter}"
        for parameter in sorted(set(found) - wanted):
            yield f"{self.graph}.onnx has the weight {parameter}, which the checkpoint does not"
        for parameter in sorted(wanted & set(found)):
            different = self._compare(parameter, found[parameter])
            yield f"{self.graph}.onnx's weight {parameter} {different}" if different else None

    def _parameters(self) -> Iterator[str]:
        """The parameters that belong to the graph."""
        joined = joins_projections(self.manifest.attention, self.manifest.quantisation is not None)
        return self.source.family.parameters(self.graph, list(self.source.names), joined)

    def _compare(self, parameter: str, found: dict[str, FileTensor]) -> str | None:
        if parameter in _COMPUTED:
            table = self._computed(parameter)
            return _plain(found[parameter], table.shape, lambda start, stop: table[start:stop], False)
        stored = self.source.stored(parameter)
        if "quantised" not in found:
            ((name, tensor),) = found.items()
            return _plain(tensor, stored.shape, stored.read, name.endswith(".T"))
        quantisation = Quantisation.of(self.manifest, self.graph)
        if quantisation is None:
            return "is quantised, which the manifest does not say"
        computing = torch.float16 if self.manifest.dtype == "fp16" else torch.float32
        worth = self.source.family.worth(parameter.removeprefix("model."), self.manifest.model)
        packing = quantisation.packing(self.graph, stored, computing, worth)
        return _packed([found[part] for part in _PARTS if part in found], packing, stored)

    def _computed(self, table: str) -> Tensor:
        return self.source.family.tables_of(self.source.config, self.source.sizes)[table]


def _plain(tensor: FileTensor, shape: tuple[int, ...], read: ReadRows, transposed: bool) -> str | None:
    """How a weight differs from the rows that `read` gives, cast to its type; None if in nothing."""
    if tensor.shape != (tuple(reversed(shape)) if transposed else tuple(shape)):
        return f"has the shape {list(tensor.shape)}, where the checkpoint makes it {list(shape)}"
    whole = tensor.read(0, tensor.shape[0]) if transposed else None
    rows = shape[0] if shape else 1
    step = max(1, _NUMBERS * rows // max(1, math.prod(shape)))

    def compare(start: int) -> tuple[int, float]:
        """How many numbers differ, and by how much at most."""
        stop = min(start + step, rows)
        expected = read(start, stop).to(tensor.dtype)
        # torch transposes in squares, which is fast, only what lies in one piece.
        found = tensor.read(start, stop) if whole is None else whole[:, start:stop].contiguous().T
        found = found.reshape(expected.shape)
        bits = _bits(found), _bits(expected)
        if torch.equal(*bits):
            return 0, 0.0
        return int((bits[0] != bits[1]).sum()), float((found.double() - expected.double()).abs().max())

    compared = in_parallel(compare, range(0, rows, step))
    different, largest = sum(count for count, _ in compared), max((by for _, by in compared), default=0.0)
    if not different:
        return None
    return f"differs from the checkpoint's in {different:,} of {math.prod(shape):,} numbers, by {largest:.1e} at most"


def _packed(tensors: list[FileTensor], packing: Packing, stored: Stored) -> str | None:
    """The same of a packed matrix, beside packing the checkpoint's again."""
    expected_parts = packing.parts(*stored.shape)
    if [(t.dtype, math.prod(t.shape)) for t in tensors] != [(dtype, math.prod(shape)) for dtype, shape in expected_parts]:
        return f"is not packed as {packing}"
    done, different = [0] * len(tensors), [0] * len(tensors)
    for index, part in packed_parts(packing, stored):
        expected = part.flatten()
        flat = replace(tensors[index], shape=(math.prod(tensors[index].shape),))
        found = flat.read(done[index], done[index] + len(expected))
        different[index] += int((_bits(found) != _bits(expected)).sum())
        done[index] += len(expected)
    if not any(different):
        return None
    counts = (f"{count:,} {part}" for count, part in zip(different, ("bytes of integers", *_PARTS[1:]), strict=False) if count)
    return f"differs from the checkpoint's, packed again, in {' and '.join(counts)}"


def _bits(numbers: Tensor) -> Tensor:
    """Floats as integers: zeros with a sign and what is not a number are equal to themselves only."""
    sizes = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return numbers.contiguous().view(sizes[numbers.element_size()])


def _reaching(model: ir.Model) -> list[ir.Node]:
    """The nodes that lead to an output."""
    wanted, found = set(model.graph.outputs), []
    for node in reversed(list(model.graph)):
        if wanted & set(node.outputs):
            found.append(node)
            wanted |= {value for value in node.inputs if value is not None}
    return found
