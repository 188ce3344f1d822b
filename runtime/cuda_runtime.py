"""What ONNX Runtime's Python interface does not do with CUDA's memory; without CUDA's library it is not done."""

from __future__ import annotations

import ctypes
import sys
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .libraries import cuda_major


def pinned(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """An array of zeros that cards read and write by themselves, which is faster; a common one where CUDA refuses."""
    array: NDArray[np.float32] = np.zeros(shape, np.float32)
    runtime, address = _library(), ctypes.c_void_p(array.ctypes.data)
    if runtime is None:
        return array
    if runtime.cudaHostRegister(address, ctypes.c_size_t(array.nbytes), ctypes.c_uint(0)) == 0:
        weakref.finalize(array, runtime.cudaHostUnregister, address)
    else:
        runtime.cudaGetLastError()  # ONNX Runtime would take the refusal for its next kernel's
    return array


def zeroed(address: int, nbytes: int, card: int) -> bool:
    """Fill memory of a card with zeros that do not come from the host; whether that worked."""
    runtime, before = _library(), ctypes.c_int()
    if runtime is None or runtime.cudaGetDevice(ctypes.byref(before)) != 0:
        return False
    done = (
        runtime.cudaSetDevice(card) == 0
        and runtime.cudaMemset(ctypes.c_void_p(address), 0, ctypes.c_size_t(nbytes)) == 0
        and runtime.cudaDeviceSynchronize() == 0
    )
    if not done:
        runtime.cudaGetLastError()
    runtime.cudaSetDevice(before)
    return bool(done)


def _library() -> Any:
    """CUDA's, which ONNX Runtime has loaded, or None."""
    try:
        return ctypes.CDLL(f"cudart64_{cuda_major()}.dll" if sys.platform == "win32" else f"libcudart.so.{cuda_major()}")
    except OSError:
        return None
