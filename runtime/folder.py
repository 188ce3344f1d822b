"""A model folder on disk, checked before anything in it is used. Folders from strangers are untrusted."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..graphs.contract import MANIFEST, FileEntry, Manifest
from ..graphs.errors import ModelFolderError
from .errors import readable
from .outside.hub import check_subfolder, download, hub_folder, inside

DEMO = Path(__file__).parent.parent / "demo" / "model"
"""The model that ships with the package."""
HASHED_UP_TO = 64 << 20
"""Bytes; larger files are compared by size when a folder is opened, and by hash only by `verify`: 17 GB take too long."""
MAX_JSON = 64 << 20
"""Bytes. The largest tokenizers that are in use have half of it."""
MODEL_CARD = "README.md"
"""Not in the manifest: it may be edited."""
PROCESSOR_FILES = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json",
    "tokenizer_config.json", "chat_template.json", "chat_template.jinja",
)  # fmt: skip
"""What the runtime reads besides the graphs: in a model folder only what the manifest vouches for."""


@dataclass(frozen=True)
class ModelFolder:
    """Path and manifest of a complete model folder."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, source: str | Path | None = None, revision: str | None = None, subfolder: str = "") -> ModelFolder:
        """A folder, a hub id (downloaded first), or None for the demo model; or a folder inside of that.

        Raises:
            ModelFolderError: not a model folder, or a file of it is missing, has another size, or (up to 64 MiB) another hash.
        """
        if not isinstance(source, str | Path | None):
            raise ModelFolderError(f"The source is {source!r:.60}. Give a model folder, a hub id, or nothing for the demo model.")
        found = _here_or_on_the_hub(_demo() if source is None else source, subfolder)
        if found is None:
            raise ModelFolderError(f"{source!s:.200} is not a folder. Give a model folder made by `idefics2-onnx export`.")
        path = found if isinstance(found, Path) else _download(*found, revision)
        folder = cls(path, read_manifest(path))
        folder.check(HASHED_UP_TO)
        return folder

    @readable(ModelFolderError)
    def check(self, hashed_up_to: int | None = None, on_bytes: Callable[[int], None] = lambda _: None) -> None:
        """Compare every file with the manifest: its size, and its hash unless it is larger than `hashed_up_to`."""
        for name in PROCESSOR_FILES:
            if name not in self.manifest.files and find_file(self.path, name):
                raise ModelFolderError(f"{self.path} has the file {name}, which {MANIFEST} does not list. Remove it.")
        for name, entry in self.manifest.files.items():
            path = self.file(name)
            if path.stat().st_size != entry.size:
                raise ModelFolderError(
                    f"{path} has {path.stat().st_size} bytes where {MANIFEST} says {entry.size}. "
                    "Export or download the model again."
                )
            if (hashed_up_to is None or entry.size <= hashed_up_to) and not _hash_matches(path, entry, on_bytes):
                raise ModelFolderError(
                    f"{path} is damaged: its SHA-256 is not the one in {MANIFEST}. Export or download the model again."
                )

    @readable(ModelFolderError)
    def unlisted(self) -> list[str]:
        """Names in the folder that the manifest does not vouch for, hidden ones and the model card aside."""
        known = {MANIFEST, MODEL_CARD, *self.manifest.files}
        return sorted(path.name for path in self.path.iterdir() if path.name not in known and not path.name.startswith("."))

    def file(self, name: str) -> Path:
        """Path of a file in the folder; ModelFolderError if it is missing or leads outside."""
        path = find_file(self.path, name)
        if path is None:
            raise ModelFolderError(f"{self.path} lacks the file {name}. Export or download the model again.")
        return path

    def json(self, name: str) -> dict[str, Any]:
        """A parsed JSON object from the folder; empty if there is no such file."""
        return find_json(self.path, name)


def processor_folder(source: str | Path, subfolder: str = "") -> Path:
    """A folder, or where the processor's files of a hub repository are, once downloaded; or a folder inside of that."""
    found = _here_or_on_the_hub(source, subfolder)
    if found is None or isinstance(found, Path):
        return found or Path(source)
    hub_id, folder = found
    needed = inside(folder, ["preprocessor_config.json", "processor_config.json"])
    return download(hub_id, None, inside(folder, PROCESSOR_FILES), [needed]) / folder


def _here_or_on_the_hub(source: str | Path, subfolder: str) -> Path | tuple[str, str] | None:
    """A folder that is here, or hub id and subfolder of one that may be on the hub; None for a path that is neither.

    A path is meant as it was written: ./owner/name is no hub id, and no Path is, which would not tell the two apart.
    """
    if os.path.isdir(source):  # noqa: PTH112  unlike Path's, it answers for names that no folder can have
        check_subfolder(subfolder)
        return Path(source) / subfolder
    return None if isinstance(source, Path) or os.path.exists(source) else hub_folder(source, subfolder)  # noqa: PTH110


def find_file(folder: Path, name: str) -> Path | None:
    """A file of a folder, None if there is none; ModelFolderError if it leads outside."""
    path = folder / name
    if not os.path.isfile(path):  # noqa: PTH113  unlike Path's, it answers for names that no file can have
        return None
    root = folder.resolve()
    # The hub's cache keeps a snapshot's files as links into its blobs.
    homes = [root, *(above.parent / "blobs" for above in root.parents if above.name == "snapshots")]
    if not any(path.resolve().is_relative_to(home) for home in homes):
        raise ModelFolderError(f"{path} is a link to a file outside its folder. Copy the file into the folder.")
    return path


def find_json(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file of a folder; empty if there is no such file."""
    path = find_file(folder, name)
    return {} if path is None else read_json_object(path)


def read_json_object(path: Path) -> dict[str, Any]:
    """Parse a file that holds one JSON object; ModelFolderError says why it does not."""
    try:
        if (size := path.stat().st_size) > MAX_JSON:
            raise ValueError(f"{size:,} bytes, more than {MAX_JSON:,}")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ModelFolderError(f"{path} is not readable JSON ({error}). Export or download the model again.") from error
    if not isinstance(content, dict):
        raise ModelFolderError(f"{path} holds no JSON object. Export or download the model again.")
    return content


@readable(ModelFolderError)
def read_manifest(path: Path) -> Manifest:
    """The manifest of a folder whose other files are not looked at; ModelFolderError if there is none or it is damaged."""
    if not (path / MANIFEST).is_file():
        hint = "a checkpoint: export it first" if (path / "config.json").exists() else "no model folder"
        if (path / "onnx").is_dir():
            hint = "in the layout of another library"
        raise ModelFolderError(f"{path} has no {MANIFEST}, so it is {hint}. Make a model folder with `idefics2-onnx export`.")
    return Manifest.from_dict(read_json_object(path / MANIFEST))


def _hash_matches(path: Path, entry: FileEntry, on_bytes: Callable[[int], None]) -> bool:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(1 << 22):
            digest.update(block)
            on_bytes(len(block))
    return digest.hexdigest() == entry.sha256


def _download(hub_id: str, subfolder: str, revision: str | None) -> Path:
    """Download the manifest and then what it lists, of a repository that may hold much else."""
    manifest = inside(subfolder, [MANIFEST])
    snapshot = download(hub_id, revision, manifest, [manifest])
    folder = snapshot / subfolder
    if not (folder / MANIFEST).is_file():
        name, advice = hub_id, "Export it first, or name a folder inside of it, as in owner/name:int8."
        if subfolder:
            name, advice = f"{hub_id}:{subfolder}", "Check the folder's name."
        raise ModelFolderError(f"{name} on the hub has no {MANIFEST}, so it is no model folder. {advice}")
    names = inside(subfolder, list(read_manifest(folder).files))
    return download(hub_id, snapshot.name, names, [[name] for name in names]) / subfolder


def _demo() -> Path:
    if not (DEMO / MANIFEST).is_file():
        missing = f"file {DEMO / MANIFEST}" if DEMO.is_dir() else f"folder {DEMO}"
        raise ModelFolderError(
            f"The demo model that comes with the package is missing: there is no {missing}. Name a model folder, install "
            "idefics2-onnx again, or add its files to the frozen app (PyInstaller: --collect-data idefics2_onnx)."
        )
    return DEMO
