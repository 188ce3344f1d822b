"""A model folder that appears under its name only when it is complete."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from ..graphs.contract import MANIFEST, FileEntry, Manifest
from .errors import CheckpointError

_MARGIN = 64 << 20
"""Bytes kept free besides the weights, for graphs, tokenizer and manifest."""


@contextmanager
def new_folder(target: Path, size: int) -> Iterator[Path]:
    """A temporary sibling of `target` for `size` bytes, renamed to `target` at the end and removed on any error.

    What a killed run left behind is removed by the next one.
    """
    made = []
    try:
        if os.path.ismount(target) or target.resolve() == Path.cwd():
            raise CheckpointError(f"{target} cannot be replaced by a finished folder. Choose one that does not exist with -o.")
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise CheckpointError(f"{target} already exists and is not an empty folder. Remove it or choose another with -o.")
        made = [parent for parent in target.parents if not parent.exists()]
        target.parent.mkdir(parents=True, exist_ok=True)
        for stale in target.parent.glob(f".{target.name}.partial-*"):
            if not psutil.pid_exists(int(stale.name.rpartition("-")[2])):
                shutil.rmtree(stale)
        free = shutil.disk_usage(target.parent).free
        if free < size + _MARGIN:
            raise CheckpointError(
                f"The model folder needs {(size + _MARGIN) / 1e9:.1f} GB, but {target.parent} has {free / 1e9:.1f} GB free. "
                "Free some space or choose another folder with -o."
            )
        partial = target.parent / f".{target.name}.partial-{os.getpid()}"
        try:
            partial.mkdir()
            yield partial
            partial.rename(target)
            made = []
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        advice = "Free some space or choose" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Choose"
        raise CheckpointError(f"{target} cannot be written ({error.strerror or error}). {advice} another with -o.") from error
    finally:
        for parent in made:
            with suppress(OSError):
                parent.rmdir()


def file_entry(path: Path) -> FileEntry:
    """Size and hash of a file."""
    with path.open("rb") as file:
        return FileEntry(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, the last file of a folder."""
    (folder / MANIFEST).write_text(json.dumps(manifest.to_dict(), indent=2) + "\n", encoding="utf-8")
