"""A model folder that appears under its name only when it is complete."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..graphs.contract import MANIFEST, FileEntry, Manifest
from ..graphs.errors import Idefics2OnnxError
from .errors import CheckpointError
from .journal import sync_files

_LOCK = "lock"
"""Held by the process that works there."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_MARGIN = 64 << 20
"""Bytes kept free besides the weights, for graphs, tokenizer and manifest."""


@dataclass(frozen=True)
class Workplace:
    """Where a model folder is made: a hidden sibling of its place to be."""

    root: Path
    resumed: bool
    """Whether an earlier run left something here to go on with."""

    @property
    def folder(self) -> Path:
        """What becomes the model folder."""
        return self.root / "folder"


@contextmanager
def new_folder(target: Path, size: int, plan: dict[str, Any], say: Callable[[str], None]) -> Iterator[Workplace]:
    """A place to make a folder of `size` bytes in, renamed to `target` at the end.

    An export that was killed or interrupted goes on where it stopped if it followed the same plan; else what it left is
    removed. An error of ours leaves nothing; an interruption, a crash or a full disk leaves what was made, and `say` is told so.
    """
    made: list[Path] = []
    named, target = target, Path(os.path.realpath(target))  # through links: a folder cannot be renamed onto one
    root = target.parent / f".{target.name}.partial"
    lock = FileLock(root / _LOCK, blocking=False)

    def discard() -> None:
        lock.release()
        shutil.rmtree(root, ignore_errors=True)

    try:
        if target.is_symlink():
            raise CheckpointError(f"{named} is a link that leads in a circle. Remove it or choose another folder with -o.")
        if os.path.ismount(target) or target == Path.cwd():
            raise CheckpointError(f"{named} cannot be replaced by a finished folder. Choose one that does not exist with -o.")
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise CheckpointError(f"{named} already exists and is not an empty folder. Remove it or choose another with -o.")
        made = [parent for parent in target.parents if not parent.exists()]
        target.parent.mkdir(parents=True, exist_ok=True)
        root.mkdir(exist_ok=True)
        lock.acquire()
        workplace = _workplace(root, plan)
        free = shutil.disk_usage(target.parent).free + sum(f.stat().st_size for f in workplace.folder.iterdir())
        if free < size + _MARGIN:
            if not workplace.resumed:
                discard()
            raise CheckpointError(
                f"The model folder needs {(size + _MARGIN) / 1e9:.1f} GB, but {target.parent} has {free / 1e9:.1f} GB free. "
                "Free some space or choose another folder with -o."
            )
        try:
            yield workplace
        except BaseException as error:
            if isinstance(error, Idefics2OnnxError) or (isinstance(error, OSError) and error.errno not in _FULL):
                discard()
            else:
                say(f"What is done so far stays in {root}. The same command goes on from there.")
            raise
        sync_files(workplace.folder)
        with suppress(FileNotFoundError):
            target.rmdir()  # an empty folder, which no other can be renamed onto on Windows
        workplace.folder.rename(target)
        discard()
        made = []
    except Timeout as error:
        raise CheckpointError(f"Another export to {named} is running. Wait for it or choose another folder with -o.") from error
    except OSError as error:
        advice = "Free some space, run it again to go on," if error.errno in _FULL else "Choose"
        choice = " or choose another with -o." if error.errno in _FULL else " another with -o."
        raise CheckpointError(f"{named} cannot be written ({error.strerror or error}). {advice}{choice}") from error
    finally:
        lock.release()
        for parent in made:
            with suppress(OSError):
                parent.rmdir()


def _workplace(root: Path, plan: dict[str, Any]) -> Workplace:
    """A workplace as it was left by a run with this plan, or empty."""
    written = root / "plan.json"
    with suppress(OSError, ValueError, RecursionError):
        if json.loads(written.read_text()) == plan and (root / "folder").is_dir():
            (root / "folder" / MANIFEST).unlink(missing_ok=True)  # it is written last
            return Workplace(root, resumed=True)
    for path in root.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()
    (root / "folder").mkdir()
    written.write_text(json.dumps(plan))
    return Workplace(root, resumed=False)


def fingerprint(folder: Path | None) -> list[Any] | None:
    """A folder with names, sizes and times of its files."""
    if folder is None:
        return None
    files = [path for path in folder.iterdir() if path.is_file()]
    return [str(folder.resolve()), *sorted([path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files)]


def code_digest() -> str:
    """SHA-256 of this package's own source: an export that another version began is begun anew."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def file_entry(path: Path) -> FileEntry:
    """Size and hash of a file."""
    with path.open("rb") as file:
        return FileEntry(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, the last file of a folder."""
    (folder / MANIFEST).write_text(json.dumps(manifest.to_dict(), indent=2) + "\n", encoding="utf-8")
