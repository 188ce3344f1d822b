"""Where large tensors lie: in memory that goes back to the system at once, and that comes in large pages.

Linux fills new memory page by page. In pages of 4 kB that took up to a third of an export's time.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

_HEAP = {-3: 4 << 20, -1: 64 << 20}
"""glibc's settings. M_MMAP_THRESHOLD: what is larger has pages of its own, which go back as soon as it is freed; else tensors
come to lie on the heap, where small ones between them keep gigabytes. M_TRIM_THRESHOLD: so much stays for the next blocks."""


def set_heap() -> None:
    """For the whole process."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # other C libraries
            for setting, value in _HEAP.items():
                ctypes.CDLL(None).mallopt(setting, value)


def trim() -> None:
    """Give the system back what is free between blocks that are not: over a hundred steps that grows to as much as one holds."""
    if sys.platform == "linux":
        with suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A large tensor whose numbers are set next, in NumPy's memory: it asks Linux for pages of 2 MB, torch does not."""
    count = torch.Size(shape).numel()
    memory = np.empty(max(1, count) * dtype.itemsize, np.uint8)
    return torch.from_numpy(memory).view(dtype)[:count].view(tuple(shape))


def in_large_pages() -> dict[str, str]:
    """Environment variables of a new process that asks for them wherever it gets memory."""
    if sys.platform != "linux":
        return {}
    own, name = "glibc.malloc.hugetlb=1", "GLIBC_TUNABLES"
    return {name: f"{os.environ[name]}:{own}" if os.environ.get(name) else own}
