"""Reading and writing large files past the operating system's page cache.

Gigabytes that are read or written once are not worth keeping there: that takes more time than the disk itself, and pushes out
what other programs need. File systems that cannot do without the cache are used through it.
"""

from __future__ import annotations

import errno
import io
import mmap
import os
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

_ALIGNMENT = mmap.PAGESIZE
"""Disks ask that places in files, lengths and addresses are multiples of this."""
_BUFFER = 8 << 20
_DIRECT = getattr(os, "O_DIRECT", 0)


def read_direct(path: Path, offset: int, length: int, flags: int = _DIRECT) -> NDArray[np.uint8]:
    """`length` bytes of a file from `offset` on; fewer where it ends before."""
    skipped = offset % _ALIGNMENT
    buffer, done = _aligned(skipped + length), 0
    try:
        with _open(path, "r", flags) as file:
            file.seek(offset - skipped)
            while done < skipped + length and (count := file.readinto(buffer[done:].data)):
                done += count
    except OSError as refused:
        if refused.errno != errno.EINVAL or not flags:
            raise
        return read_direct(path, offset, length, 0)
    return buffer[skipped : min(done, skipped + length)]


class DirectWriter:
    """Writes a file front to back."""

    def __init__(self, path: Path, kept: int) -> None:
        """Go on after the first `kept` bytes of a file that is there; what follows them is dropped."""
        os.truncate(path, kept)
        self._path, self._flags, self._buffer = path, _DIRECT, _aligned(_BUFFER)
        self._waiting = kept % _ALIGNMENT
        self._written = kept - self._waiting
        self._buffer[: self._waiting] = read_direct(path, self._written, self._waiting)
        self._file = self._open()

    @property
    def position(self) -> int:
        """Where the next byte comes to lie."""
        return self._written + self._waiting

    def write(self, data: NDArray[np.uint8]) -> None:
        """Append; `data` [bytes]."""
        while len(data):
            part, data = np.split(data, [_BUFFER - self._waiting])
            self._buffer[self._waiting : self._waiting + len(part)] = part
            self._waiting += len(part)
            if self._waiting == _BUFFER:
                self._flush(_BUFFER)

    def sync(self) -> int:
        """Wait for the disk, and say how many bytes are on it: all but a few that wait to be written."""
        os.fsync(self._file.fileno())
        return self._written

    def finish(self) -> None:
        """Write what is still waiting; nothing more may be written."""
        size = self.position
        self._flush(self._waiting + -self._waiting % _ALIGNMENT)
        self._file.truncate(size)
        self._written = size

    def __enter__(self) -> DirectWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self.finish()
        finally:
            self._file.close()

    def _flush(self, length: int) -> None:
        done = 0
        while done < length:
            try:
                done += self._file.write(self._buffer[done:length].data)
            except OSError as refused:
                self._without_direct(refused)
                self._file.close()
                self._file = self._open()
                self._file.seek(self._written + done)
        self._written, self._waiting = self._written + length, 0

    def _open(self) -> io.FileIO:
        try:
            file = _open(self._path, "r+", self._flags)
        except OSError as refused:
            self._without_direct(refused)
            return self._open()
        file.seek(self._written)
        return file

    def _without_direct(self, refused: OSError) -> None:
        if refused.errno != errno.EINVAL or not self._flags:
            raise refused
        self._flags = 0


def _open(path: Path, mode: str, flags: int) -> io.FileIO:
    return io.FileIO(path, mode, opener=lambda name, plain: os.open(name, plain | flags))


def _aligned(length: int) -> NDArray[np.uint8]:
    """Memory for `length` bytes, rounded up."""
    memory = np.empty(length + 2 * _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + length + -length % _ALIGNMENT]
