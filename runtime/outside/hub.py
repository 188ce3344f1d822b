"""Named files of a repository on the Hugging Face hub, downloaded into the hub's cache; every failure is one sentence."""

from __future__ import annotations

import glob
import re
from collections.abc import Collection
from pathlib import Path

from ...graphs.errors import ModelFolderError
from .hub_failure import explain

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
"""``owner/name``."""
_SUBFOLDER = re.compile(r"(?:[\w-][\w.-]*/)*[\w-][\w.-]*")
"""Names that lead neither out of the repository nor to hidden files."""


def hub_folder(source: str, subfolder: str = "") -> tuple[str, str] | None:
    """Hub id and subfolder, maybe empty, of ``owner/name`` or ``owner/name:subfolder``; None for anything else.

    Raises:
        ModelFolderError: the subfolder is no path inside a repository, or is given twice.
    """
    hub_id, colon, inside = source.partition(":")
    if not HUB_ID.fullmatch(hub_id):
        return None
    check_subfolder(inside if colon else subfolder, named=bool(colon))
    if colon and subfolder:
        raise ModelFolderError(f"{source!s:.200} and subfolder={subfolder!r:.60} name two folders. Give one of them.")
    return hub_id, inside or subfolder


def check_subfolder(subfolder: object, named: bool = False) -> None:
    """Raise ModelFolderError unless it is a path inside a repository, or empty and not `named`."""
    if (subfolder == "" and not named) or (isinstance(subfolder, str) and _SUBFOLDER.fullmatch(subfolder)):
        return
    raise ModelFolderError(f"subfolder is {subfolder!r:.60}. Give the path of a folder inside the repository, like int8.")


def inside(subfolder: str, names: Collection[str]) -> list[str]:
    """Paths in a repository of files in a folder of it."""
    return [f"{subfolder}/{name}" if subfolder else name for name in names]


def download(hub_id: str, revision: str | None, names: Collection[str], needed: Collection[Collection[str]] = ()) -> Path:
    """Those of the named files that a repository has, in a folder that is named after its commit.

    Args:
        revision: branch, tag or commit; None for the main branch.
        names: paths inside the repository. Nothing else is asked for.
        needed: sets of names; one of each set has to be in a cache that is used without a connection.

    Raises:
        ModelFolderError: they could not be had; it says why, and what to do.
    """
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        if error.name != "huggingface_hub":
            raise
        raise ModelFolderError(
            f"{hub_id} is not a folder here, and a download needs huggingface_hub, which is not installed. Install it, or give a "
            "model folder; an app that downloads has to be frozen with it."
        ) from error
    try:
        folder = Path(snapshot_download(hub_id, revision=revision, allow_patterns=[glob.escape(name) for name in names]))
    except Exception as error:  # of huggingface_hub, httpx, the system and, where something else answered, of any reader
        raise _failed(hub_id, revision, error, _lacking(_cached(hub_id, revision), needed)) from error
    lacking = _lacking(folder, needed)
    if lacking and (unreached := _unreached(hub_id, folder.name)) is not None:
        raise _failed(hub_id, revision, unreached, lacking) from unreached
    return folder


def _lacking(folder: Path | None, needed: Collection[Collection[str]]) -> list[str]:
    """The first name of each set of files of which a folder has none."""
    if folder is None or not folder.is_dir():
        return []
    return [next(iter(choice)) for choice in needed if not any((folder / name).is_file() for name in choice)]


def _cached(hub_id: str, revision: str | None) -> Path | None:
    """What the cache holds of a repository, whole or not."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=[], local_files_only=True))
    except Exception:
        return None


def _unreached(hub_id: str, commit: str) -> Exception | None:
    """Why the hub cannot be asked what else a repository has; None if it can, and what is not here is not there either."""
    from huggingface_hub import HfApi

    try:
        HfApi().list_repo_files(hub_id, revision=commit)
    except Exception as error:
        return error
    return None


def _failed(hub_id: str, revision: str | None, error: Exception, lacking: list[str]) -> ModelFolderError:
    if hasattr(error, "snapshot_path") and not lacking:  # an IncompleteSnapshotError, new in huggingface_hub 2
        lacking = ["other files"]
        error = error.__cause__ if isinstance(error.__cause__, Exception) else error
    reason, advice = explain(hub_id, revision, error)
    if lacking:
        names = ", ".join([*lacking[:3], *(["…"] if len(lacking) > 3 else [])])
        return ModelFolderError(
            f"The hub's cache here holds only part of {hub_id} (it lacks {names}), and the rest could not be downloaded "
            f"({reason}). {advice}."
        )
    return ModelFolderError(f"{hub_id} is not a folder here and could not be downloaded from the hub ({reason}). {advice}.")
