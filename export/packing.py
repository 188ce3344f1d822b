"""Matrices as small numbers with scales: how a packing rounds, and what it stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ..runtime.parallel import in_parallel

ReadRows = Callable[[int, int], Tensor]
"""Rows start…stop of a matrix [rows, columns], in any float type."""
ReadIntegers = Callable[[int, int], tuple[Tensor, Tensor, Tensor]]
"""The same rows as integers uint8 [rows, groups, size], their scales and their zeros [rows, groups]."""
_SHRINKS = torch.linspace(1.0, 0.6, 11).tolist()
"""Shares of a group's largest number that are tried as the largest its integers reach."""
_BLOCK = 3 << 20
"""Numbers rounded at once, in bytes of float32: few enough to stay in a processor's cache, and on the heap (`heap.py`)."""
_AT_ONCE = 16
"""Blocks that are held once they are packed."""


class Packing(Protocol):
    """One way to store a matrix [rows, columns]: an output's weights are a row, as torch has them."""

    def parts(self, rows: int, columns: int) -> list[tuple[torch.dtype, tuple[int, ...]]]:
        """Types and shapes of what is stored, in order."""
        ...

    def pack(self, rows: int, columns: int, read: ReadRows) -> Iterator[tuple[int, Tensor]]:
        """The data of each part in order, a piece at a time, each with its part's index."""
        ...

    def rounded(self, matrix: Tensor) -> Tensor:
        """What a matrix float32 means once it is packed."""
        ...


@dataclass(frozen=True)
class Channels:
    """int8 with one scale per output, transposed to [columns, rows] for MatMulIntegerToFloat."""

    def parts(self, rows: int, columns: int) -> list[tuple[torch.dtype, tuple[int, ...]]]:
        return [(torch.int8, (columns, rows)), (torch.float32, (rows,))]

    def pack(self, rows: int, columns: int, read: ReadRows) -> Iterator[tuple[int, Tensor]]:
        data, scales = torch.empty(columns, rows, dtype=torch.int8), torch.empty(rows)

        def fill(block: tuple[int, int], data: Tensor = data) -> None:
            here = slice(*block)
            integers, scales[here] = self._round(read(*block).float())
            data[:, here] = integers.to(torch.int8).T

        in_parallel(fill, _blocks(rows, columns))
        yield 0, data
        del data, fill
        yield 1, scales

    def rounded(self, matrix: Tensor) -> Tensor:
        rounded = (self._round(matrix[start:stop]) for start, stop in _blocks(*matrix.shape))
        return torch.cat([integers * scales[:, None] for integers, scales in rounded])

    @staticmethod
    def _round(matrix: Tensor) -> tuple[Tensor, Tensor]:
        scales = matrix.abs().amax(1).clamp(min=1e-30) / 127
        return (matrix / scales[:, None]).round_(), scales


@dataclass(frozen=True)
class Groups:
    """4 or 8 bits with one scale per group of columns, for MatMulNBits (`padded`) and GatherBlockQuantized.

    Symmetric groups take their zero in the middle of the range; others store it, too. The scale of each group is the one of
    several tried whose rounding error is smallest, and then the best for the integers it gave.
    """

    bits: int
    size: int
    symmetric: bool
    dtype: torch.dtype
    """The type of the scales."""
    padded: bool = True
    """Rows fill their last group with zeros."""
    kept: bool = False
    """Whether the matrix is stored in such groups already."""

    def parts(self, rows: int, columns: int) -> list[tuple[torch.dtype, tuple[int, ...]]]:
        groups = -(-columns // self.size)
        shape = (rows, groups, self.size * self.bits // 8) if self.padded else (rows, columns * self.bits // 8)
        zeros = [] if self.symmetric else [(torch.uint8, (rows, -(-groups * self.bits // 8)))]
        return [(torch.uint8, shape), (self.dtype, (rows, groups)), *zeros]

    def pack(self, rows: int, columns: int, read: ReadRows) -> Iterator[tuple[int, Tensor]]:
        groups, rest = -(-columns // self.size), []

        def pack(block: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
            weights = nn.functional.pad(read(*block).float(), (0, groups * self.size - columns))
            data, scales, zeros = self.round(weights.view(len(weights), groups, self.size))
            packed = self._together(data)
            return packed if self.padded else packed.flatten(1)[:, : columns * self.bits // 8].contiguous(), scales, zeros

        blocks = list(_blocks(rows, columns))
        for first in range(0, len(blocks), _AT_ONCE):
            for packed, scales, zeros in in_parallel(pack, blocks[first : first + _AT_ONCE]):
                rest.append((scales, zeros))
                yield 0, packed
        yield 1, torch.cat([scales for scales, _ in rest])
        if not self.symmetric:
            yield 2, self._together(torch.cat([zeros for _, zeros in rest]))

    def keep(self, rows: int, columns: int, read: ReadIntegers) -> Iterator[tuple[int, Tensor]]:
        """Like `pack`, for a matrix that is stored in such groups already: nothing is rounded again."""
        rest = []
        for start, stop in _blocks(rows, columns):
            integers, scales, zeros = read(start, stop)
            rest.append((scales.to(self.dtype), zeros))
            yield 0, self._together(integers)
        yield 1, torch.cat([scales for scales, _ in rest])
        yield 2, self._together(torch.cat([zeros for _, zeros in rest]))

    def rounded(self, matrix: Tensor) -> Tensor:
        columns, found = matrix.shape[1], []
        groups = -(-columns // self.size)
        for start, stop in _blocks(*matrix.shape):
            padded = nn.functional.pad(matrix[start:stop], (0, groups * self.size - columns))
            integers, scales, zeros = self.round(padded.view(-1, groups, self.size))
            centred = integers.float() - zeros[..., None].float()
            found.append((centred * scales[..., None].float()).flatten(1)[:, :columns])
        return torch.cat(found)

    def round(self, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Groups [rows, groups, size] → integers uint8 of that shape, scales and zeros [rows, groups]."""
        middle, top = 2 ** (self.bits - 1), 2**self.bits - 1
        low, high = weights.amin(-1), weights.amax(-1)
        if self.symmetric:  # the number of the larger magnitude takes the end of the range that reaches further
            widest, zero = torch.where(-low > high, low, high) / -middle, torch.full_like(low, middle)
        else:
            widest = (high.clamp(min=0) - low.clamp(max=0)) / top
            zero = (-low.clamp(max=0) / torch.where(widest == 0, 1.0, widest)).round_()
        widest = torch.where(widest == 0, 1.0, widest)
        best, most = widest, torch.full_like(low, -1.0)
        rounded, products = torch.empty_like(weights), torch.empty_like(weights)
        for shrink in _SHRINKS if self.bits < 8 else _SHRINKS[:1]:
            # With the scale that fits its integers best, a candidate leaves |w|² − (c·w)² ÷ |c|² of the group.
            centred = self._centred(weights, widest * shrink, zero, rounded)
            explained = _dot(centred, weights, products).square_().div_(_square(centred).clamp_(min=1e-30))
            best, most = torch.where(explained > most, widest * shrink, best), torch.maximum(explained, most)
        centred = self._centred(weights, best, zero, rounded)
        square = _square(centred)
        scale = torch.where(square > 0, _dot(centred, weights, products) / square.clamp_(min=1e-30), 1.0)
        integers = centred.add_(zero[..., None]).to(torch.uint8)
        return integers, scale.to(self.dtype), zero.to(torch.uint8)

    def _centred(self, weights: Tensor, scale: Tensor, zero: Tensor, out: Tensor) -> Tensor:
        """Rounded groups, their zero at 0."""
        torch.mul(weights, (1 / scale)[..., None], out=out).round_()
        if self.symmetric:
            return out.clamp_(-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1)
        return out.clamp_(-zero[..., None], 2**self.bits - 1 - zero[..., None])

    def _together(self, numbers: Tensor) -> Tensor:
        """Two 4-bit numbers a byte along the last axis, the first in the lower half."""
        if self.bits == 8:
            return numbers
        even = nn.functional.pad(numbers, (0, numbers.shape[-1] % 2))
        return even[..., 0::2] | (even[..., 1::2] << 4)


def _dot(a: Tensor, b: Tensor, products: Tensor) -> Tensor:
    """Over the last axis, the products in memory that is there: torch's own vecdot takes twice as long."""
    return torch.mul(a, b, out=products).sum(-1)


def _square(a: Tensor) -> Tensor:
    """Of a vector's length, over the last axis."""
    return torch.linalg.vector_norm(a, dim=-1).square_()


def _blocks(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    step = max(1, _BLOCK // (4 * columns))
    return ((start, min(start + step, rows)) for start in range(0, rows, step))
