"""Matrices as a folder's graphs hold them in small numbers, read back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from ...graphs.contract import GraphName
from ..models.family import Family
from ..models.joined import rows_of_parts
from ..source.arithmetic import PackedMatrix
from ..source.checkpoint import FileTensor, Part
from ..source.source_model import SourceModel
from .graphs import load_graph, stored_tensors

_LEVELS = 127
"""Integers that an activation may have on each side of zero."""


@dataclass(frozen=True)
class GroupMatrix:
    """Groups of columns with a scale each, for MatMulNBits and GatherBlockQuantized; float64 when read."""

    data: FileTensor
    scales: FileTensor
    zeros: FileTensor | None
    bits: int
    size: int
    """Columns that share a scale."""
    columns: int
    rounds: bool
    """Whether the product rounds activations to 8 bits, group by group."""
    dtype: torch.dtype = torch.float64

    @property
    def shape(self) -> tuple[int, ...]:
        return self.scales.shape[0], self.columns

    def read(self, start: int, stop: int) -> Tensor:
        rows = stop - start
        scales = self.scales.read(start, stop).double().view(rows, -1, 1)
        integers = _unpacked(self.data.read(start, stop).view(rows, -1), self.bits)
        groups = functional.pad(integers, (0, scales.shape[1] * self.size - integers.shape[1])).view(rows, -1, self.size)
        zeros = 2.0 ** (self.bits - 1)
        if self.zeros is not None:
            groups = groups - _unpacked(self.zeros.read(start, stop), self.bits)[:, : scales.shape[1], None] + zeros
        return ((groups - zeros) * scales).flatten(1)[:, : self.columns]

    def rounded(self, x: Tensor) -> Tensor:
        if not self.rounds:
            return x
        groups = functional.pad(x, (0, -self.columns % self.size)).unflatten(-1, (-1, self.size))
        return _rounded(groups).flatten(-2)[..., : self.columns]


@dataclass(frozen=True)
class ChannelMatrix:
    """int8 [columns, rows] with a scale per row, for MatMulIntegerToFloat; float64 when read.

    The graph rounds activations row by row before it.
    """

    data: FileTensor
    scales: FileTensor
    dtype: torch.dtype = torch.float64

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape[::-1]

    def read(self, start: int, stop: int) -> Tensor:
        return _whole(self.data)[:, start:stop].T.double() * self.scales.read(start, stop).double()[:, None]

    def rounded(self, x: Tensor) -> Tensor:
        return _rounded(x)


@dataclass(frozen=True)
class SomeRows(Part):
    """Some rows of a matrix."""

    base: GroupMatrix | ChannelMatrix

    def rounded(self, x: Tensor) -> Tensor:
        return self.base.rounded(x)


def folder_matrices(folder: Path, graph: GraphName, source: SourceModel) -> dict[str, PackedMatrix]:
    """The packed matrices of a graph, by the reference's parameter."""
    model, found = load_graph(folder, graph), dict[str, PackedMatrix]()
    tensors = stored_tensors(model)
    for node in model.graph:
        if node.op_type in ("MatMulNBits", "MatMulIntegerToFloat", "GatherBlockQuantized"):
            value = node.inputs[0 if node.op_type == "GatherBlockQuantized" else 1]
            assert value is not None
            assert value.name is not None
            stem = value.name.removesuffix(".quantised")
            parameter, matrix = parameter_of(f"{stem}.weight", source.family), _matrix(node, stem, tensors)
            parts = rows_of_parts(parameter, source.shapes)
            found |= {part: SomeRows(matrix, rows, range(matrix.shape[1])) for part, rows in parts.items()}
            if not parts:
                found[parameter] = matrix
    return found


def parameter_of(initializer: str, family: Family) -> str:
    """The reference's name of a graph's weight."""
    return family.parameter_of(initializer.removesuffix(".T"))


def _matrix(node: ir.Node, stem: str, tensors: dict[str, FileTensor]) -> GroupMatrix | ChannelMatrix:
    data, scales = (tensors[f"{stem}.{part}"] for part in ("quantised", "scales"))
    if node.op_type == "MatMulIntegerToFloat":
        return ChannelMatrix(data, scales)
    bits, size = (node.attributes[name].as_int() for name in ("bits", "block_size"))
    columns = node.attributes["K"].as_int() if "K" in node.attributes else data.shape[1] * 8 // bits
    rounds = "accuracy_level" in node.attributes and node.attributes["accuracy_level"].as_int() == 4
    return GroupMatrix(data, scales, tensors.get(f"{stem}.zeros"), bits, size, columns, rounds)


@lru_cache(maxsize=1)
def _whole(data: FileTensor) -> Tensor:
    """A matrix whose rows are columns: each block of rows needs all of it."""
    return data.read(0, data.shape[0])


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    """The numbers [rows, …] of a row's bytes, the lower half of each first."""
    if bits == 4:
        packed = torch.stack([packed & 15, packed >> 4], -1).flatten(1)
    return packed.double()


def _rounded(x: Tensor) -> Tensor:
    """Rows of 8-bit integers with a scale each."""
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-30) / _LEVELS
    return (x / scale).round() * scale
