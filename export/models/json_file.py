"""JSON files of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...runtime.errors import first_line
from ..errors import CheckpointError


def read_json(path: Path) -> Any:
    """A parsed JSON file of a checkpoint; CheckpointError if it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent} has no {path.name}. Give a folder with a whole checkpoint.") from error
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON ({first_line(error)}). Download it again.") from error


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no such file."""
    content = read_json(path) if path.exists() else {}
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object. Download it again.")
    return content
