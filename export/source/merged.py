"""Tensors that an adapter changes: each is computed as it is read, a few rows at a time, in float32."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .checkpoint import Changed, Stored

_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Merged(Changed):
    """LoRA: a matrix, or a convolution's kernels, plus a scaled product of two small ones."""

    down: Stored
    """[rank, inputs, …]; of an embedding table [rank, rows]."""
    up: Stored
    """[outputs, rank, …]; of an embedding table [columns, rank]."""
    scale: float
    table: bool
    """Whether it is an embedding table, whose pair PEFT stores the other way round."""

    def read(self, start: int, stop: int) -> Tensor:
        base = self.base.read(start, stop).float()
        down = whole(self.down)
        left, right = (down.T[start:stop], whole(self.up).T) if self.table else (self.up.read(start, stop).float(), down)
        return torch.addmm(base.flatten(1), left.flatten(1), right.flatten(1), alpha=self.scale).view_as(base)


@dataclass(frozen=True)
class DoraRows(Changed):
    """DoRA on a matrix or a convolution: each output's weights, stretched to a length of its own."""

    magnitude: Stored
    """As many numbers as outputs."""

    def read(self, start: int, stop: int) -> Tensor:
        base = self.base.read(start, stop)
        rows = base.flatten(1)
        wanted = whole(self.magnitude).flatten()[start:stop, None]
        return (wanted / torch.linalg.vector_norm(rows, dim=1, keepdim=True) * rows).view_as(base)


@dataclass(frozen=True)
class DoraColumns(Changed):
    """DoRA on an embedding table, whose columns are the outputs."""

    magnitude: Stored
    """As many numbers as columns."""

    def read(self, start: int, stop: int) -> Tensor:
        return self._factors * self.base.read(start, stop)

    @cached_property
    def _factors(self) -> Tensor:
        squares = torch.zeros(self.shape[1], dtype=torch.float64)
        for start in range(0, self.shape[0], _ROWS_AT_ONCE):
            squares += self.base.read(start, min(start + _ROWS_AT_ONCE, self.shape[0])).double().square().sum(0)
        return whole(self.magnitude) / squares.sqrt().float()


@dataclass(frozen=True)
class Shifted(Changed):
    """A bias plus a scaled one of the same length."""

    shift: Stored
    scale: float

    def read(self, start: int, stop: int) -> Tensor:
        return self.base.read(start, stop).float() + self.scale * self.shift.read(start, stop).float()


@dataclass(frozen=True)
class RowsReplaced(Changed):
    """A table with other numbers in some of its rows."""

    rows: tuple[int, ...]
    values: Stored
    """[as many as rows, columns]."""

    def read(self, start: int, stop: int) -> Tensor:
        table = self.base.read(start, stop).to(torch.float32, copy=True)
        for place, row in enumerate(self.rows):
            if start <= row < stop:
                table[row - start] = self.values.read(place, place + 1)[0].float()
        return table


def whole(stored: Stored) -> Tensor:
    """A small tensor, in float32."""
    return stored.read(0, stored.shape[0]).float()
