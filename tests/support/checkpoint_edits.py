"""Checkpoints changed for a test, and their refusal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from idefics2_onnx.export import export_model
from idefics2_onnx.export.errors import CheckpointError


def edit_json(path: Path, **changes) -> None:
    content = json.loads(path.read_text())
    for key, value in changes.items():
        *outer, last = key.split("__")
        place = content
        for name in outer:
            place = place[name]
        place[last] = value
    path.write_text(json.dumps(content))


def refused(source, target, match, error=CheckpointError, **options) -> None:
    with pytest.raises(error, match=match) as caught:
        export_model(source, target, verify="never", **options)
    assert "\n" not in str(caught.value)
    assert not target.exists() or not any(target.iterdir())
    assert not list(target.parent.glob(".*partial*"))
