"""A folder's weights, number by number: the checkpoint's in the folder's type, or what packing them again gives."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor

from ...graphs.contract import GraphName, Manifest
from ...runtime.parallel import in_parallel
from ..packing import Packing
from ..quantisation.quantise import Quantisation, joins_projections
from ..quantisation.smoothing import as_quantised
from ..source.checkpoint import FileTensor, Held, Stored
from ..source.source_model import SourceModel
from ..weights import packed_parts
from .folder_matrix import parameter_of
from .graphs import load_graph, stored_tensors

_NUMBERS = 1 << 21
"""Compared at once."""
_PARTS = ("quantised", "scales", "zeros")
_COMPUTED = ("cos", "sin", "positions")
"""Tables that are no parameters of the checkpoint."""


@dataclass(frozen=True)
class WeightsCheck:
    """One graph's weights beside the checkpoint's."""

    manifest: Manifest
    graph: GraphName
    source: SourceModel
    """With the factors that were moved before the graph was quantised."""
    parameters: dict[str, dict[str, FileTensor]]
    """What the graph has of each: its parts, or itself by its name there."""
    misfits: list[str]
    """What the graph has too much, lacks, or has in another size, a clause each: its numbers cannot be compared then."""
    compared: dict[str, str | None] = field(default_factory=dict)
    """What was found of parameters: None, or how their numbers differ."""

    @classmethod
    def of(cls, folder: Path, manifest: Manifest, source: SourceModel, graph: GraphName) -> WeightsCheck:
        model, found = load_graph(folder, graph), dict[str, dict[str, FileTensor]]()
        tensors = stored_tensors(model)
        for name, tensor in tensors.items():
            parameter, part = _place(name, source)
            found.setdefault(parameter, {})[part] = tensor
        joined = joins_projections(manifest.attention, Quantisation.of(manifest, graph))
        wanted = set(source.family.parameters(graph, list(source.names), joined))
        used = {value.name for node in _reaching(model) for value in node.inputs if value is not None}
        misfits = [f"{graph}.onnx has the weight {name}, which leads to no output" for name in tensors if name not in used]
        misfits += [f"{graph}.onnx lacks the weight {name}" for name in sorted(wanted - set(found))]
        more = sorted(set(found) - wanted)
        misfits += [f"{graph}.onnx has the weight {name}, which the checkpoint does not" for name in more]
        parameters = {name: found[name] for name in sorted(wanted & set(found))}
        check = cls(manifest, graph, as_quantised(folder, manifest, source, graph), parameters, misfits)
        for parameter, parts in list(parameters.items()):
            if misfit := check._misfit(parameter, parts):
                misfits.append(f"{graph}.onnx's weight {parameter} {misfit}")
                del parameters[parameter]
        return check

    def compare(self, weights: dict[str, Tensor], source: SourceModel) -> None:
        """Compare weights that are in memory, by their names in the graph, with the checkpoint's, of which `source` may have some
        there, too. What is packed is left for `faults`.
        """
        for name, tensor in weights.items():
            parameter, part = _place(name, self.source)
            if part not in _PARTS and parameter not in self.compared:
                self.compared[parameter] = _plain(Held(tensor), self._stored(parameter, source), part.endswith(".T"))

    def faults(self) -> Iterator[str | None]:
        """For each weight that the graph must have, None or what is wrong with it."""
        yield from self.misfits
        for parameter, parts in self.parameters.items():
            if parameter not in self.compared:
                self.compared[parameter] = self._difference(parameter, parts)
            different = self.compared[parameter]
            yield f"{self.graph}.onnx's weight {parameter} {different}" if different else None

    def _misfit(self, parameter: str, parts: Mapping[str, FileTensor]) -> str | None:
        """How what the graph has of a parameter is of another kind or size than the checkpoint's."""
        shape = tuple(self._stored(parameter, self.source).shape)
        if "quantised" in parts:
            packing = self._packing(parameter)
            if packing is None:
                return "is quantised, which the manifest does not say"
            expected = [(dtype, math.prod(part)) for dtype, part in packing.parts(*shape)]
            fits = [(part.dtype, math.prod(part.shape)) for part in _in_order(parts)] == expected
            return None if fits else f"is not packed as {packing}"
        ((name, tensor),) = parts.items()
        if tensor.shape == (tuple(reversed(shape)) if name.endswith(".T") else shape):
            return None
        return f"has the shape {list(tensor.shape)}, where the checkpoint makes it {list(shape)}"

    def _difference(self, parameter: str, parts: Mapping[str, FileTensor]) -> str | None:
        """How a parameter's numbers differ; None if in nothing."""
        stored = self._stored(parameter, self.source)
        if "quantised" not in parts:
            ((name, tensor),) = parts.items()
            return _plain(tensor, stored, name.endswith(".T"))
        packing = self._packing(parameter)
        assert packing is not None
        return _packed(_in_order(parts), packing, stored)

    def _stored(self, parameter: str, source: SourceModel) -> Stored:
        if parameter in _COMPUTED:
            return Held(self.source.family.tables_of(self.source.config, self.source.sizes)[parameter])
        return source.stored(parameter)

    def _packing(self, parameter: str) -> Packing | None:
        quantisation = Quantisation.of(self.manifest, self.graph)
        if quantisation is None:
            return None
        computing = torch.float16 if self.manifest.dtype == "fp16" else torch.float32
        worth = self.source.family.worth(parameter.removeprefix("model."), self.manifest.model)
        return quantisation.packing(self.graph, self.source.stored(parameter), computing, worth)


def _place(name: str, source: SourceModel) -> tuple[str, str]:
    """The parameter that a graph's weight is of, and which part of it, or else its name."""
    stem, _, part = name.rpartition(".")
    if part in _PARTS:
        return parameter_of(f"{stem}.weight", source.family), part
    key = name.removesuffix(".T")
    return key if key in _COMPUTED else parameter_of(key, source.family), name


def _in_order(parts: Mapping[str, FileTensor]) -> list[FileTensor]:
    return [parts[part] for part in _PARTS if part in parts]


def _plain(tensor: Stored, stored: Stored, transposed: bool) -> str | None:
    """How a weight differs from the checkpoint's, cast to its type; None if in nothing."""
    shape = stored.shape
    whole = tensor.read(0, tensor.shape[0]) if transposed else None
    rows = shape[0] if shape else 1
    step = max(1, _NUMBERS * rows // max(1, math.prod(shape)))

    def compare(start: int) -> tuple[int, float]:
        """How many numbers differ, and by how much at most."""
        stop = min(start + step, rows)
        expected = stored.read(start, stop).to(tensor.dtype)
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
