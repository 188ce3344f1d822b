"""How far a file is known to be written: what an interrupted export may go on from, after a power cut, too."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .direct_io import DirectWriter

_EVERY = 1 << 30
"""Bytes after which the disk is waited for. A killed export makes that much again at most."""
_BLOCK = 32 << 20


class Journal:
    """Places in one file up to which its bytes are on the disk, and their SHA-256: a JSON line each, in a file beside it.

    A file that a power cut leaves may have its full length and zeros for what never reached the disk.

    Args:
        path: of the journal.
        file: that it is about.
    """

    def __init__(self, path: Path, file: Path) -> None:
        self._path, self._file = path, file
        self._recorded = 0
        self._reached: list[tuple[int, str]] = []

    def resume(self, places: Sequence[int], on_bytes: Callable[[int], None]) -> tuple[int, Any]:
        """Where to go on, 0 or the last of `places` that is vouched for, and the hash of what stands before."""
        self._file.touch()
        size, entries = self._file.stat().st_size, self._entries()
        kept = max((place for place in places if place in entries and place <= size), default=0)
        digest = hashlib.sha256()
        with self._file.open("rb") as file:
            for start in range(0, kept, _BLOCK):
                block = file.read(min(_BLOCK, kept - start))
                digest.update(block)
                on_bytes(len(block))
        if kept and digest.hexdigest() != entries[kept]:
            kept, digest = 0, hashlib.sha256()
        self._recorded = kept
        return kept, digest

    def reach(self, place: int, digest: Any, writer: DirectWriter) -> None:
        """Everything before `place` is made; now and then that is recorded."""
        self._reached.append((place, digest.hexdigest()))
        if place - self._recorded >= _EVERY:
            self.record(writer)

    def record(self, writer: DirectWriter) -> None:
        """Wait for the disk, and write down what is on it."""
        written = writer.sync()
        on_disk = [entry for entry in self._reached if entry[0] <= written]
        if on_disk:
            self._recorded, digest = on_disk[-1]
            del self._reached[: len(on_disk)]
            with self._path.open("a", encoding="utf-8") as journal:
                journal.write(json.dumps({"bytes": self._recorded, "sha256": digest}) + "\n")
                journal.flush()
                os.fsync(journal.fileno())

    def _entries(self) -> dict[int, str]:
        """Hashes by place; a line that was cut off is left out."""
        found: dict[int, str] = {}
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            for line in self._path.read_text("utf-8").splitlines():
                entry = json.loads(line)
                found[int(entry["bytes"])] = str(entry["sha256"])
        return found


def sync_files(folder: Path) -> None:
    """Wait until the files of a folder and of those inside of it, and their names, are on the disk."""
    for path in folder.iterdir():
        if path.is_dir():
            sync_files(path)
            continue
        with path.open("r+b") as file:
            os.fsync(file.fileno())
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
