"""What errors look like, whatever a stranger put into the names and values that they repeat."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import idefics2_onnx
import pytest
from idefics2_onnx import ImageError
from idefics2_onnx.export.errors import CheckpointError, ParityError, RequirementError
from idefics2_onnx.graphs.errors import ModelFolderError
from idefics2_onnx.runtime.errors import Idefics2OnnxError, PromptError, ProviderError

ERRORS = [
    Idefics2OnnxError,
    ImageError,
    ModelFolderError,
    PromptError,
    ProviderError,
    CheckpointError,
    ParityError,
    RequirementError,
]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\r\nc", r"a\nb\r\nc"), ("\x1b[2Jx", r"\x1b[2Jx"), ("\ud800", r"\ud800"), ("a\u202eb\0", r"a\u202eb\x00"),
        ("ä 画 \U0001f600 '\\n'", "ä 画 \U0001f600 '\\n'"), ("", ""),
    ],
)  # fmt: skip
def test_a_message_is_one_printable_line(error, text, shown):
    assert str(error(text)) == shown
    assert str(pickle.loads(pickle.dumps(error(text)))) == shown


def test_no_message_repeats_a_value_whole():
    """A stranger's may be of any length."""
    sources = list(Path(idefics2_onnx.__file__).parent.rglob("*.py"))
    assert len(sources) > 100
    assert [str(path) for path in sources if re.search(r"\{[^{}]*!r\}", path.read_text(encoding="utf-8"))] == []
