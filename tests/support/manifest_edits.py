"""Changes to a model folder that its manifest vouches for, as a stranger would make them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from idefics2_onnx.graphs.contract import MANIFEST


def listed(folder: Path, *names: str, model: dict[str, Any] | None = None) -> Path:
    """The folder, whose manifest has the sizes and hashes that the named files have now, and other numbers of the model."""
    manifest = json.loads((folder / MANIFEST).read_text())
    for name in names:
        content = (folder / name).read_bytes()
        manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["model"] |= model or {}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def with_json(folder: Path, name: str, change: dict[str, Any]) -> Path:
    """The folder with keys of a JSON file changed."""
    path = folder / name
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | change))
    return listed(folder, name)
