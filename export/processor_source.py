"""What of a checkpoint is not weights, where an adapter was trained with files of its own: those beside the adapter count."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from ..runtime.image_tokens import END_OF_UTTERANCE, FAKE_IMAGE, IMAGE
from .errors import CheckpointError, reason
from .models.json_file import read_json
from .models.known import family_of
from .source.checkpoint import Checkpoint

_GROUPS = {
    "processor": ("preprocessor_config.json", "processor_config.json"),
    "tokenizer": (
        "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    ),
    "chat template": ("chat_template.jinja", "chat_template.json"),
}  # fmt: skip
"""Files that belong together: some of the one folder and some of the other would make a third processor."""
_NEEDED = {"tokenizer": ("tokenizer.json", "tokenizer.model")}
"""The files of a group without which its others say nothing."""
_GROUP_OF = {"processor_config.json": "processor", "tokenizer_config.json": "tokenizer"}
"""Files that may hold a chat template, too, and the group they belong to."""


@contextmanager
def processor_source(checkpoint: Checkpoint, config: Any, adapter: Path | None) -> Iterator[tuple[Checkpoint, str | None]]:
    """A checkpoint whose folder holds the configs, tokenizer and template to use, and a line about what is the adapter's.

    `config` is the merged model's. Raises CheckpointError if a file is damaged, or the adapter's tokenizer goes beyond the
    model's vocabulary.
    """
    if adapter is None:
        yield checkpoint, None
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for path in checkpoint.folder.iterdir():
            if path.suffix in (".json", ".jinja", ".model") and path.is_file():
                shutil.copyfile(path, folder / path.name)
        used = [group for group, files in _GROUPS.items() if _use(group, files, adapter, folder)]
        if "chat template" not in used and any(_template(adapter / name) for name in _GROUP_OF if _GROUP_OF[name] in used):
            used.append("chat template")
            for name in _GROUPS["chat template"]:
                (folder / name).unlink(missing_ok=True)
        for name in _GROUP_OF:  # only the template's own folder counts: these files outdo one another
            owner = adapter if "chat template" in used else checkpoint.folder
            _set_template(folder / name, _template(owner / name))
        if "tokenizer" in used:
            _check_vocabulary(checkpoint, family_of(config).sizes(config, 0).vocab_size, adapter)
        _write_config(config, folder / "config.json")
        yield replace(checkpoint, folder=folder), f"Using the {', '.join(used)} beside the adapter {adapter}." if used else None


def _use(group: str, files: tuple[str, ...], adapter: Path, folder: Path) -> bool:
    """Put the adapter's files of a group in the place of the base model's, if it has them."""
    if not any((adapter / name).is_file() for name in _NEEDED.get(group, files)):
        return False
    for name in files:
        (folder / name).unlink(missing_ok=True)
        if (adapter / name).is_file():
            if name.endswith(".json"):
                read_json(adapter / name)  # names the file if it is damaged
            shutil.copyfile(adapter / name, folder / name)
    return True


def _template(path: Path) -> Any:
    content = read_json(path) if path.is_file() else None
    return content.get("chat_template") if isinstance(content, dict) else None


def _set_template(path: Path, template: Any) -> None:
    content = read_json(path) if path.is_file() else {}
    if isinstance(content, dict) and content.get("chat_template") != template:
        content.pop("chat_template", None)
        path.write_text(json.dumps(content | ({"chat_template": template} if template else {})), encoding="utf-8")


def _check_vocabulary(checkpoint: Checkpoint, size: int, adapter: Path) -> None:
    """Tokens beyond the tables have no numbers; those that the base model's tokenizer has, too, are nobody's."""
    beyond = _beyond(adapter, size) - {FAKE_IMAGE, IMAGE, END_OF_UTTERANCE}
    if beyond and (beyond := beyond - _beyond(checkpoint.folder, size)):
        raise CheckpointError(
            f"{adapter}'s tokenizer has {len(beyond)} tokens beyond the model's vocabulary of {size}, such as "
            f"{min(beyond)!r:.60}, but the adapter does not hold the longer tables. Save it again with "
            "save_embedding_layers=True."
        )


def _beyond(folder: Path, size: int) -> set[str]:
    if not any((folder / name).is_file() for name in _NEEDED["tokenizer"]):
        return set()
    try:
        vocabulary = AutoTokenizer.from_pretrained(folder).get_vocab()
    except Exception as error:  # whatever the conversion of a tokenizer raises, it is the folder's
        raise CheckpointError(f"{folder}'s tokenizer cannot be read: {reason(error)}") from error
    return {token for token, number in vocabulary.items() if number >= size}


def _write_config(config: Any, path: Path) -> None:
    path.write_text(json.dumps(family_of(config).adapted(read_json(path), config), indent=2), encoding="utf-8")
