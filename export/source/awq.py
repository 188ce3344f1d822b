"""AWQ's 4-bit GEMM layout: a matrix as eight 4-bit numbers an int32, with a scale and a zero per group of inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .checkpoint import Beside, Checkpoint, Stored

_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight neighbouring columns each 4-bit number of an int32 is, from the lowest on."""
_PARTS = ("qweight", "qzeros", "scales")


@dataclass(frozen=True)
class AwqMatrix:
    """A matrix [outputs, inputs] stored as integers: (integer − zero) × scale."""

    weights: Stored
    """int32 [inputs, outputs / 8]."""
    zeros: Stored
    """int32 [inputs / group, outputs / 8]."""
    scales: Stored
    """[inputs / group, outputs]."""
    group: int

    @property
    def dtype(self) -> torch.dtype:
        return self.scales.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.scales.shape[1], self.weights.shape[0]

    def read(self, start: int, stop: int) -> Tensor:
        integers, scales, zeros = self.integers(start, stop)
        return ((integers.float() - zeros[..., None].float()) * scales[..., None].float()).flatten(1).to(self.dtype)

    def integers(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs start to stop: integers [outputs, groups, group] uint8, scales and zeros [outputs, groups]."""
        integers, zeros = (_unpacked(stored, start, stop).T.contiguous() for stored in (self.weights, self.zeros))
        scales = _whole(self.scales)[:, start:stop].T.contiguous()
        return integers.view(len(integers), -1, self.group), scales, zeros


def stacked(parts: tuple[Stored, ...]) -> AwqMatrix | None:
    """Matrices one below another as one such matrix; None unless all are such, of one group."""
    own = [part for part in parts if isinstance(part, AwqMatrix)]
    if len(own) < len(parts) or len({part.group for part in own}) != 1:
        return None
    weights, zeros, scales = (Beside(each) for each in zip(*((p.weights, p.zeros, p.scales) for p in own), strict=True))
    return AwqMatrix(weights, zeros, scales, own[0].group)


def unpack_awq(checkpoint: Checkpoint, config: Any) -> Checkpoint:
    """The checkpoint with a matrix in the place of each triple of AWQ's tensors; `config` is its quantization_config."""
    _whole.cache_clear()  # the same files may hold something else since
    source = checkpoint.source
    if config.get("bits", 4) != 4 or str(config.get("version", "gemm")).lower() != "gemm":
        raise CheckpointError(
            f"{source} is quantised by AWQ with {config.get('bits')} bits in the {config.get('version')} layout. "
            "Only 4 bits in the GEMM layout can be exported."
        )
    tensors = dict(checkpoint.tensors)
    for name in [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]:
        missing = [f"{name}.{part}" for part in _PARTS if f"{name}.{part}" not in tensors]
        if missing:
            raise CheckpointError(f"{source} lacks the tensor {missing[0]}. Download it again.")
        weights, zeros, scales = (tensors.pop(f"{name}.{part}") for part in _PARTS)
        inputs, outputs, groups = weights.shape[0], scales.shape[-1], scales.shape[0]
        expected = [(inputs, outputs // 8), (groups, outputs // 8), (groups, outputs)]
        integers = (weights.dtype, zeros.dtype) == (torch.int32, torch.int32) and scales.dtype.is_floating_point
        if [weights.shape, zeros.shape, scales.shape] != expected or outputs % 8 or inputs % groups or not integers:
            raise CheckpointError(
                f"{source}'s {name} has weights of shape {list(weights.shape)}, zeros {list(zeros.shape)} and scales "
                f"{list(scales.shape)}, which is not AWQ's GEMM layout. Download it again."
            )
        tensors[f"{name}.weight"] = AwqMatrix(weights, zeros, scales, inputs // groups)
    return replace(checkpoint, tensors=tensors)


@lru_cache(maxsize=len(_PARTS))
def _whole(stored: Stored) -> Tensor:
    """A tensor whose columns are outputs: each part of the matrix needs all of it."""
    return stored.read(0, stored.shape[0])


def _unpacked(stored: Stored, start: int, stop: int) -> Tensor:
    """Columns start…stop of int32 [rows, columns / 8] as uint8 [rows, stop − start]."""
    first = start // 8
    packed = _whole(stored)[:, first : -(-stop // 8)]
    columns = torch.empty(*packed.shape, 8, dtype=torch.uint8)
    for place, column in enumerate(_ORDER):
        columns[..., column] = (packed >> (4 * place)) & 15
    return columns.flatten(1)[:, start - 8 * first : stop - 8 * first]
