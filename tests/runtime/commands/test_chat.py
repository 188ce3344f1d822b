"""`chat`, typed into."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from idefics2_onnx.cli import main
from idefics2_onnx.runtime.model import Idefics2

CAT = str(Path("examples/cat.jpg").resolve())


@pytest.fixture(scope="module")
def demo():
    return Idefics2.from_pretrained()


def test_chat_command_reads_lines(tmp_path, demo, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = "What is it?\n/undo\nWhat is it?\n/nope\n"
    result = CliRunner().invoke(
        main, ["chat", CAT, "--max-new-tokens", "4", "-O", "repetition_penalty=1.2"], input=lines, catch_exceptions=False
    )
    assert result.exit_code == 0
    with_cat = demo.generate("What is it?", CAT, max_new_tokens=4, repetition_penalty=1.2).text
    without = demo.generate("What is it?", max_new_tokens=4, repetition_penalty=1.2).text
    assert result.stdout == f"{with_cat}\n{without}\n"
    assert "There is no command /nope" in result.stderr


def test_a_line_without_end_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["chat"], input="/help\n" + "\0" * (1 << 20) + "more\n", catch_exceptions=False)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        "Error: A line of the input has more than 1,048,576 letters. Write shorter messages."
    )
