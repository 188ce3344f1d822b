"""Numbers in the memory the graphs run in, of which parts are bound and copied without passing through the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import ProviderError, first_line
from . import cuda_runtime

if TYPE_CHECKING:
    import onnxruntime as ort

_TYPES = {"tensor(float)": 1, "tensor(float16)": 10, "tensor(bfloat16)": 16}
"""ONNX's numbers of the types a graph's features, embeddings and cache may have."""
FLOAT32, _BFLOAT16 = 1, 16
_STORED: dict[int, Any] = {FLOAT32: np.float32, 10: np.float16, _BFLOAT16: np.uint16}
"""NumPy has no bfloat16: its bits are kept."""
LARGE = 8 << 20
"""Bytes from which a buffer on a GPU has memory of its own. ONNX Runtime's arena doubles with every piece it takes from the GPU
and gives none back: a cache for 32 rows could cost twice its size. Smaller buffers come and go too often for CUDA's own calls."""


@dataclass(frozen=True)
class Storage:
    """Where buffers live and what they hold."""

    device: Literal["cpu", "cuda"]
    element_type: int
    """ONNX's number of the type."""
    session: ort.InferenceSession
    """One that runs there."""
    gpu: int = 0
    """The number of the GPU, of several."""

    @classmethod
    def of(cls, session: ort.InferenceSession, device: Literal["cpu", "cuda"], gpu: int = 0) -> Storage:
        """Storage for buffers of the type of a session's first output."""
        return cls(device, _TYPES[session.get_outputs()[0].type], session, gpu)

    @property
    def item_bytes(self) -> int:
        return int(np.dtype(_STORED[self.element_type]).itemsize)

    @property
    def largest(self) -> float:
        """Number that it holds."""
        return float(np.finfo(np.float32 if self.element_type == _BFLOAT16 else _STORED[self.element_type]).max)

    def empty(self, shape: Sequence[int], element_type: int) -> ort.OrtValue:
        """A tensor with anything in it.

        Raises:
            ProviderError: there is no room for it.
        """
        import onnxruntime as ort

        try:
            return ort.OrtValue.ortvalue_from_shape_and_type(shape, element_type, self.device, self.gpu)
        except Exception as error:  # onnxruntime's errors share no base but Exception
            reason = first_line(error)
            raise ProviderError(
                f"The GPU gave no memory for {list(shape)} numbers ({reason:.300}). Use fewer rows or tokens."
            ) from error

    def tensor(self, array: NDArray[Any]) -> ort.OrtValue:
        """An array's numbers: the same memory on the CPU, a copy on a device."""
        import onnxruntime as ort

        try:
            return _owned(ort.OrtValue.ortvalue_from_numpy(array, self.device, self.gpu), array)
        except Exception as error:
            reason = first_line(error)
            raise ProviderError(
                f"The GPU did not take {array.nbytes} bytes ({reason:.300}). Check it with nvidia-smi."
            ) from error

    def buffer(self, rows: int, groups: int, length: int, width: int) -> Buffer:
        """A buffer of zeros."""
        return Buffer((rows, groups, length, width), self)


class Buffer:
    """Numbers [rows, groups, length, width]: a cache's keys are [batch, heads, tokens, head_dim].

    Attributes:
        shape: the four sizes.
        nbytes: what it takes.
    """

    def __init__(self, shape: tuple[int, int, int, int], storage: Storage) -> None:
        self.shape, self._storage = shape, storage
        self.nbytes = int(np.prod(shape)) * storage.item_bytes
        # Zero at first: standard attention multiplies what lies past a row's end by 0, which must not be NaN.
        if storage.device == "cpu":
            self._array: NDArray[Any] = np.zeros(shape, _STORED[storage.element_type])
            return
        self._memory: cuda_runtime.Memory | ort.OrtValue
        if self.nbytes < LARGE:
            self._memory = storage.empty(shape, storage.element_type)
        else:
            self._memory = cuda_runtime.Memory(self.nbytes, storage.gpu)
        if self.nbytes:
            cuda_runtime.zero(self._memory.data_ptr(), self.nbytes, storage.gpu)

    def rows(self, start: int, stop: int, shape: Sequence[int] | None = None) -> ort.OrtValue:
        """Rows start to stop, not copied, in their own shape or another; a shape of fewer numbers takes the first."""
        _, *rest = self.shape
        return self._part(start * int(np.prod(rest)), (stop - start, *rest) if shape is None else tuple(shape))

    def copy(self, row: int, source: Buffer, source_row: int, start: int, stop: int, at: int | None = None) -> None:
        """Take [:, start:stop] of a row from a row of another buffer, or of this one, to the same place or to `at`."""
        at = start if at is None else at
        if self._storage.device == "cpu":
            self._array[row, :, at : at + stop - start] = source._array[source_row, :, start:stop]
            return
        if stop > start:
            line = (stop - start) * self.shape[3] * self._storage.item_bytes
            lines = source._lines(source_row, start)
            cuda_runtime.copy_lines(self._lines(row, at), lines, line, self.shape[1], self._storage.gpu)

    def write(self, values: NDArray[np.floating[Any]]) -> None:
        """Fill the buffer with as many numbers from the host."""
        flat = np.ascontiguousarray(values, np.float32).reshape(self.shape)
        array = (
            _to_bfloat16(flat) if self._storage.element_type == _BFLOAT16 else flat.astype(_STORED[self._storage.element_type])
        )
        if self._storage.device == "cpu":
            self._array[...] = array
        elif self.nbytes:
            cuda_runtime.copy(self._memory.data_ptr(), array.ctypes.data, self.nbytes, self._storage.gpu)

    def read(self) -> NDArray[np.float32]:
        """A copy on the host, float32."""
        if self._storage.device == "cpu":
            array = self._array
        else:
            array = np.empty(self.shape, _STORED[self._storage.element_type])
            if self.nbytes:
                cuda_runtime.copy(array.ctypes.data, self._memory.data_ptr(), self.nbytes, self._storage.gpu)
        if self._storage.element_type == _BFLOAT16:
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array.astype(np.float32)

    def _lines(self, row: int, start: int) -> tuple[int, int]:
        """Where the token `start` of a row's first group is, and how far it is to the next group's; bytes."""
        _, groups, length, width = self.shape
        token, group = width * self._storage.item_bytes, length * width * self._storage.item_bytes
        return self._memory.data_ptr() + row * groups * group + start * token, group

    def _part(self, offset: int, shape: tuple[int, ...]) -> ort.OrtValue:
        """The numbers from an offset on, as a tensor of some shape over the same memory."""
        storage = self._storage
        if storage.device == "cpu":
            return _wrap(self._array.reshape(-1)[offset : offset + int(np.prod(shape))].reshape(shape), storage.element_type)
        if 0 in shape:  # is at no address
            return storage.empty(shape, storage.element_type)
        binding = storage.session.io_binding()  # the one way of its Python interface to a tensor at an address
        pointer = self._memory.data_ptr() + offset * storage.item_bytes
        name = storage.session.get_outputs()[0].name
        binding.bind_output(name, storage.device, storage.gpu, storage.element_type, shape, pointer)
        return _owned(binding.get_outputs()[0], self._memory)


def _wrap(array: NDArray[Any], element_type: int) -> ort.OrtValue:
    import onnxruntime as ort

    return _owned(ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, element_type), array)


def _owned(value: ort.OrtValue, memory: Any) -> ort.OrtValue:
    """A tensor over some memory, which is good as long as the tensor lives: versions differ in whether it holds on to that."""
    value.owner = memory
    return value


def _to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of the nearest bfloat16, of the even one of two as near."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
