"""Numbers that a graph writes and the host reads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .buffer import Storage, copy_tensor
from .cuda_runtime import pinned


class HostOutput:
    """A float32 output: the same memory on the CPU, one copy from a device.

    Attributes:
        value: what to bind.
    """

    def __init__(self, shape: tuple[int, ...], storage: Storage) -> None:
        import onnxruntime as ort

        on_device = storage.device != "cpu"
        self._array: NDArray[np.float32] = pinned(shape) if on_device else np.zeros(shape, np.float32)
        self._host = self.value = ort.OrtValue.ortvalue_from_numpy(self._array)
        if on_device:
            self.value = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, storage.device, storage.card)

    def pull(self) -> NDArray[np.float32]:
        """What was written, good until the next time."""
        if self.value is not self._host:
            copy_tensor(self.value, self._host)
        return self._array
