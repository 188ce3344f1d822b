"""Files of a folder to a repository on the Hugging Face hub; every failure is one sentence."""

from __future__ import annotations

import glob
from collections.abc import Collection
from pathlib import Path

from ..errors import Idefics2OnnxError, first_line
from .hub_failure import Explanation, explain


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
        private: for a repository that is new; one that is there has to be private, too.

    Raises:
        UploadError: it says why, and what to do.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(hub_id, private=private or None, exist_ok=True)
        if private and not api.model_info(hub_id).private:
            raise UploadError(
                f"{hub_id} is there already and is public: nothing was sent. Make it private on the hub, or leave --private out."
            )
        commit = api.upload_folder(
            repo_id=hub_id,
            folder_path=folder,
            path_in_repo=subfolder or None,
            revision=revision,
            allow_patterns=[glob.escape(name) for name in names],
            commit_message=f"Upload {subfolder or hub_id} with idefics2-onnx",
        )
    except UploadError:
        raise
    except Exception as error:  # of huggingface_hub, httpx, the system and, where something else answered, of any reader
        reason, advice = _of_uploads(folder, revision, error) or explain(hub_id, revision, error)
        raise UploadError(f"{folder} could not be uploaded to {hub_id} ({reason}). {advice}; then push again.") from error
    return str(commit.commit_url)


def _of_uploads(folder: Path, revision: str | None, error: Exception) -> Explanation | None:
    """What an exception means for an upload alone."""
    from huggingface_hub import errors

    if isinstance(error, UnicodeDecodeError):
        return "README.md is not UTF-8", "Save it as UTF-8"
    if isinstance(error, ValueError) and (refused := str(error).partition("Invalid metadata in README.md.")[2]):
        return f"the hub refuses the head of README.md: {first_line(ValueError(refused)).lstrip('- ')}", "Correct that file"
    if isinstance(error, OSError) and error.filename and Path(str(error.filename)).is_relative_to(folder):
        return first_line(error), "Let this user read the folder"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no branch {revision!r:.100}", "Make the branch on the hub, or leave --revision out"
    return None
