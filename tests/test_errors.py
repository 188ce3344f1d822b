"""What errors look like, whatever a stranger put into the names and values that they repeat."""

from __future__ import annotations

import pickle

import pytest
from idefics2_onnx import Idefics2OnnxError, ImageError, ModelFolderError, PromptError, ProviderError
from idefics2_onnx.export.errors import CheckpointError, ParityError, RequirementError

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
