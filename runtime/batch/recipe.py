"""What a file of answers is made with: model, prompt and options. It is kept beside it, and other answers do not get in there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ...graphs.contract import MANIFEST
from ..errors import BatchError, readable, shown
from ..folder import ModelFolder

Recipe = dict[str, Any]
_FOLDER = "model folder"
"""Said in errors, and not compared: a model may move."""


def recipe(folder: ModelFolder, settings: dict[str, Any]) -> Recipe:
    """Settings by the names that errors use, and the model's manifest, which has the hashes of its files."""
    return dict(json.loads(json.dumps({**settings, "model": digest_of(folder), _FOLDER: str(folder.path)})))


def digest_of(folder: ModelFolder) -> str:
    """Of a model's manifest, in hexadecimal."""
    with readable(BatchError):
        return hashlib.sha256((folder.path / MANIFEST).read_bytes()).hexdigest()


def read(path: Path, output: Path) -> Recipe:
    """What an output was made with; BatchError if that does not lie at this path."""
    try:
        written = json.loads(path.read_bytes())
        shown(written[_FOLDER])
    except FileNotFoundError as error:
        raise BatchError(f"{output} is there and was not made by this command. Name another file with -o.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BatchError(f"{path} is damaged, and says no more how {output} was made. Name another file with -o.") from error
    return dict(written)


def compare(written: Recipe, wanted: Recipe, output: Path) -> None:
    """Raise BatchError unless both are one recipe."""
    for name in {**wanted, **written}:
        before, now = written.get(name), wanted.get(name)
        if name != _FOLDER and before != now:
            made = (
                f"another model, {shown(written[_FOLDER])}" if name == "model" else f"{name} {_shown(before)}, not {_shown(now)}"
            )
            raise BatchError(f"{output} was made with {made}. Name another file with -o, or begin it anew with --restart.")


def write(path: Path, made: Recipe) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(made, indent=1) + "\n", "utf-8")
    part.replace(path)


def _shown(value: Any) -> str:
    return "left out" if value is None else shown(json.dumps(value, ensure_ascii=False), 60)
