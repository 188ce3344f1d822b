"""Files of a folder to a repository on the Hugging Face hub; every failure is one sentence."""

from __future__ import annotations

import glob
from collections.abc import Collection
from pathlib import Path

from ..errors import Idefics2OnnxError
from .hub_failure import explain


class UploadError(Idefics2OnnxError):
    """A folder could not be uploaded; what was sent is kept by the hub, and the same call goes on from there."""


def upload(
    folder: Path, names: Collection[str], hub_id: str, subfolder: str = "", revision: str | None = None, private: bool = False
) -> str:
    """Send files of a folder to a repository, which is made if there is none; the commit's address.

    What the hub has already is not sent again, so that an upload that broke off goes on where it stopped. Other files of the
    repository stay as they are.

    Args:
        names: of the files; nothing else is sent.
        subfolder: folder inside of the repository.
        revision: branch; None for the main one.
        private: for a repository that is new.

    Raises:
        UploadError: it says why, and what to do.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(hub_id, private=private or None, exist_ok=True)
        commit = api.upload_folder(
            repo_id=hub_id,
            folder_path=folder,
            path_in_repo=subfolder or None,
            revision=revision,
            allow_patterns=[glob.escape(name) for name in names],
            commit_message=f"Upload {subfolder or hub_id} with idefics2-onnx",
        )
    except Exception as error:  # of huggingface_hub, httpx, the system and, where something else answered, of any reader
        reason, advice = explain(hub_id, revision, error)
        raise UploadError(f"{folder} could not be uploaded to {hub_id} ({reason}). {advice}; then push again.") from error
    return str(commit.commit_url)
