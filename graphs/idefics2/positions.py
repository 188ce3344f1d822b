"""Which row of the position table each patch of an image takes.

The reference computes this in float32 inside the model (Idefics2VisionEmbeddings); one unit in the last place moves a patch to
another row, so its arithmetic is repeated here bit by bit, torch's `arange` included, as a CPU with AVX2 or AVX-512 does it: an
export on any machine gives the same table.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LANES, _UNROLLED = 8, 16
"""torch fills an arange in vectors of 8 floats, two at a time; the rest one by one."""


def torch_arange(step: float) -> NDArray[np.float32]:
    """torch.arange(step, 1.0, step), float32, as torch computes it on a CPU with AVX2 or AVX-512."""
    length = len(np.arange(step, 1.0, step))
    i = np.arange(length)
    vectorised = length // _UNROLLED * _UNROLLED
    base = i[:vectorised] // _LANES * _LANES
    values = (step + step * i).astype(np.float32)
    first = (step + step * base).astype(np.float32).astype(np.float64)
    values[:vectorised] = (first + (i[:vectorised] - base) * step).astype(np.float32)
    return values


def bucket_indices(patches: int, positions_per_side: int) -> NDArray[np.int64]:
    """Position along one side, int64 [patches], of each of a row's patches in a table of positions_per_side."""
    edges = torch_arange(1 / positions_per_side)
    fractions = np.arange(patches, dtype=np.float32) * (np.float32(1) / np.float32(patches))
    fractions = np.minimum(fractions, np.float32(1 - 1e-6))
    return np.searchsorted(edges, fractions, side="right").astype(np.int64)


def position_table(positions_per_side: int, max_patches: int) -> NDArray[np.int32]:
    """int32 [max_patches + 1, max_patches]: row n starts with the position along a side of each of n patches."""
    table = np.zeros((max_patches + 1, max_patches), np.int32)
    for patches in range(1, max_patches + 1):
        table[patches, :patches] = bucket_indices(patches, positions_per_side)
    return table
