"""CUDA's library as far as the package calls it, on the host's memory."""
# ruff: noqa: N802  the names are CUDA's

from __future__ import annotations

import ctypes


class MadeUpCuda:
    """Remembers the GPUs that were chosen, the bytes of every plain copy, and memory of its own by address."""

    def __init__(self) -> None:
        self.devices: list[int] = []
        self.copied: list[int] = []
        self.memory: dict[int, ctypes.Array[ctypes.c_char]] = {}
        self.room = 1 << 40

    def cudaSetDevice(self, number):
        self.devices.append(number)
        return 0

    def cudaMalloc(self, address, nbytes):
        if nbytes.value > self.room:
            return 2
        taken = ctypes.create_string_buffer(nbytes.value)
        address._obj.value = ctypes.addressof(taken)
        self.memory[address._obj.value] = taken
        return 0

    def cudaFree(self, address):
        del self.memory[address.value]
        return 0

    def cudaMemset(self, address, value, nbytes):
        ctypes.memset(address, value, nbytes.value)
        return 0

    def cudaMemcpy(self, target, source, nbytes, direction):
        self.copied.append(nbytes.value)
        ctypes.memmove(target, source, nbytes.value)
        return 0

    def cudaMemcpy2D(self, target, target_pitch, source, source_pitch, nbytes, lines, direction):
        assert nbytes.value <= min(target_pitch.value, source_pitch.value)
        for line in range(lines.value):
            places = (address.value + line * pitch.value for address, pitch in ((target, target_pitch), (source, source_pitch)))
            ctypes.memmove(*places, nbytes.value)
        return 0

    def cudaStreamSynchronize(self, stream):
        return 0

    def cudaHostRegister(self, address, nbytes, flags):
        return 0

    def cudaHostUnregister(self, address):
        return 0

    def cudaGetLastError(self):
        return 0

    def cudaGetErrorString(self, status):
        return b"out of memory"
