"""CUDA's own calls, for what ONNX Runtime's Python interface does not do with a GPU's memory.

It has copies between tensors, but only for providers that are registered as plugins, which CUDA's in its wheels is not. Each
function returns when the work is done: ONNX Runtime's streams wait for nobody.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
import weakref
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..devices.libraries import cuda_major
from ..errors import ProviderError

_ANY_DIRECTION = 4
"""cudaMemcpyDefault: CUDA knows host and device by their addresses."""
_PORTABLE = 1
"""cudaHostRegisterPortable: for every GPU."""


def pinned(shape: tuple[int, ...], gpu: int) -> NDArray[np.float32]:
    """An array of zeros that GPUs read and write by themselves, which is faster; a common one where CUDA refuses."""
    memory = mmap.mmap(-1, max(1, 4 * math.prod(shape)))  # whole pages, in which nothing else lies
    array: NDArray[np.float32] = np.frombuffer(memory, np.float32, math.prod(shape)).reshape(shape)
    runtime, address = _library(), ctypes.c_void_p(array.ctypes.data)
    runtime.cudaSetDevice(gpu)  # or else the first GPU would be started for it
    if runtime.cudaHostRegister(address, ctypes.c_size_t(len(memory)), ctypes.c_uint(_PORTABLE)) == 0:
        weakref.finalize(memory, runtime.cudaHostUnregister, address)
    else:
        runtime.cudaGetLastError()  # ONNX Runtime would take the refusal for its next kernel's
    return array


class Memory:
    """Bytes of a GPU, which has them back as soon as nobody holds this.

    Raises:
        ProviderError: there is no room for them.
    """

    def __init__(self, nbytes: int, gpu: int) -> None:
        runtime, address = _library(), ctypes.c_void_p()
        _check(runtime, runtime.cudaSetDevice(gpu))
        if status := runtime.cudaMalloc(ctypes.byref(address), ctypes.c_size_t(nbytes)):
            raise ProviderError(
                f"The GPU gave no memory for {nbytes:,} bytes ({_reason(runtime, status)}). Use fewer rows or tokens."
            )
        assert address.value is not None
        self._address = address.value
        weakref.finalize(self, runtime.cudaFree, address)

    def data_ptr(self) -> int:
        """Its address."""
        return self._address


def zero(address: int, nbytes: int, gpu: int) -> None:
    """Fill memory of a GPU with zeros, none of which come from the host."""
    runtime = _library()
    _check(runtime, runtime.cudaSetDevice(gpu))
    _check(runtime, runtime.cudaMemset(ctypes.c_void_p(address), 0, ctypes.c_size_t(nbytes)))
    _check(runtime, runtime.cudaStreamSynchronize(None))


def copy(target: int, source: int, nbytes: int, gpu: int) -> None:
    """Copy between addresses on a GPU and on the host."""
    runtime = _library()
    addresses = ctypes.c_void_p(target), ctypes.c_void_p(source)
    _check(runtime, runtime.cudaSetDevice(gpu))
    _check(runtime, runtime.cudaMemcpy(*addresses, ctypes.c_size_t(nbytes), _ANY_DIRECTION))
    _check(runtime, runtime.cudaStreamSynchronize(None))


def copy_lines(target: tuple[int, int], source: tuple[int, int], nbytes: int, lines: int, gpu: int) -> None:
    """Copy some lines of so many bytes; of both sides, the first one's address and the bytes from one line to the next."""
    runtime = _library()
    addresses = (part for address, pitch in (target, source) for part in (ctypes.c_void_p(address), ctypes.c_size_t(pitch)))
    _check(runtime, runtime.cudaSetDevice(gpu))
    _check(runtime, runtime.cudaMemcpy2D(*addresses, ctypes.c_size_t(nbytes), ctypes.c_size_t(lines), _ANY_DIRECTION))
    _check(runtime, runtime.cudaStreamSynchronize(None))


def _check(runtime: Any, status: int) -> None:
    if status:
        reason = _reason(runtime, status)
        raise ProviderError(f"CUDA could not copy or clear memory of the GPU ({reason}). Check it with nvidia-smi.")


def _reason(runtime: Any, status: int) -> str:
    """CUDA's words for a status."""
    runtime.cudaGetLastError()  # ONNX Runtime would take it for its next kernel's
    return (runtime.cudaGetErrorString(status) or b"").decode(errors="replace") or str(status)


@cache
def _library() -> Any:
    """CUDA's, which ONNX Runtime has loaded; kept, because an answer makes about seventy calls and ctypes a class for each."""
    name = f"cudart64_{cuda_major()}.dll" if sys.platform == "win32" else f"libcudart.so.{cuda_major()}"
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        raise ProviderError(f"{name} cannot be loaded. Run: pip install 'onnxruntime-gpu[cuda,cudnn]'") from error
    library.cudaGetErrorString.restype = ctypes.c_char_p
    return library
