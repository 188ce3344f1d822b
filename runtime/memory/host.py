"""Numbers that pass between the host and a graph at every step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import cuda_runtime
from .buffer import FLOAT32, Storage


class HostInput:
    """An int64 input that the host writes: the same memory on the CPU, a copy on a device."""

    def __init__(self, shape: tuple[int, int], storage: Storage, fill: int = 0) -> None:
        self.array: NDArray[np.int64] = np.full(shape, fill, np.int64)
        self._on_device = storage.device != "cpu"
        self.value = storage.tensor(self.array)

    def push(self) -> None:
        if self._on_device:
            self.value.update_inplace(self.array)


class HostOutput:
    """A float32 output: the same memory on the CPU, one copy from a device.

    Attributes:
        value: what to bind.
    """

    def __init__(self, shape: tuple[int, ...], storage: Storage) -> None:
        if storage.device == "cpu":
            self._array: NDArray[np.float32] = np.zeros(shape, np.float32)
            self.value = storage.tensor(self._array)
        else:
            self._array = cuda_runtime.pinned(shape, storage.gpu)
            self.value = storage.empty(shape, FLOAT32)
        self._storage = storage

    def pull(self) -> NDArray[np.float32]:
        """What was written, good until the next time."""
        if self._storage.device != "cpu":
            cuda_runtime.copy(self._array.ctypes.data, self.value.data_ptr(), self._array.nbytes, self._storage.gpu)
        return self._array
