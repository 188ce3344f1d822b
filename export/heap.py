"""How this process keeps freed memory: large tensors go back to the system at once."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

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
