"""The chat in a terminal, and Ctrl-C there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from idefics2_onnx.cli import main
from idefics2_onnx.runtime.commands.console import Console
from idefics2_onnx.runtime.engine.decode_step import DecodeStep
from idefics2_onnx.runtime.model import Idefics2

CAT = str(Path("examples/cat.jpg").resolve())


@pytest.fixture(scope="module")
def demo():
    return Idefics2.from_pretrained()


@pytest.fixture
def ours(model):
    return model("plain")


class Screen:
    """What a person sees."""

    def __init__(self, model, **options):
        self.out, self.remarks = "", []
        self.chat = model.chat(**options)
        self.cut = []
        self.console = Console(self.chat, self.write, self.remark, allow_urls=False)

    def write(self, piece):
        self.out += piece

    def remark(self, line):
        """Answers of random models are all cut, which one test looks at."""
        (self.cut if line.startswith("[cut off") else self.remarks).append(line)

    def type(self, *lines):
        self.remarks.clear()
        self.out = ""
        for line in lines:
            self.console.take(line)
        return self.out


def test_a_conversation(ours, tmp_path):
    screen = Screen(ours, max_new_tokens=6)
    first = screen.type(f"/image '{CAT}'", "What is it?")
    assert first == ours.generate("What is it?", CAT, max_new_tokens=6).text + "\n"
    assert screen.remarks == ["[image 1 of the next message]"]
    second = screen.type("And now?")
    assert second == ours.generate(screen.chat.messages[:-1], max_new_tokens=6).text + "\n"
    screen.type("/stats")
    assert any("known" in line for line in screen.remarks)
    screen.type(f"/save {tmp_path / 'a chat.json'}", "/undo")
    assert screen.remarks[1:] == ["[1 turn left]"]
    assert screen.type("And now?") == second
    screen.type("/reset", "/stats")
    assert screen.remarks == ["[empty]", "Error: There is no answer yet. Ask something first."]
    screen.type(f"/load {tmp_path / 'a chat.json'}")
    assert screen.remarks == ["[2 turns]"]
    screen.type("/undo")
    assert screen.type("And now?") == second


def test_mistakes_are_said_and_the_chat_goes_on(ours, tmp_path):
    screen, pipe = Screen(ours, max_new_tokens=3), tmp_path / "pipe"
    os.mkfifo(pipe)  # as little a file as a device, which a chat must not stand in for
    for line, remark in [
        ("/image none.png", "There is no image file none.png"),
        ("/image", "/image needs a path"),
        ("/nope", "There is no command /nope"),
        ("/", "There is no command /."),
        ("/undo", "no turn to undo"),
        (f"/save {tmp_path / 'no' / 'such' / 'folder.json'}", "cannot be written"),
        (f"/load {tmp_path}", "cannot be read as a chat"),
        ("/save ~nobody-here/x/y", "cannot be written"),
        ("/save a\0b", "cannot be written"),
        ("/save .", "cannot be written"),
        ("/save ..", "cannot be written"),
        ("/save /", "cannot be written"),
        (f"/save {pipe}", "which is no file"),
        ("<image> without one", "has 1 <image> but 0 images"),
    ]:
        screen.type(line)
        assert remark in screen.remarks[0]
        assert screen.remarks[0].startswith("Error: ")
    assert screen.chat.messages == []
    assert screen.type("hello")
    screen.type("/help")
    assert "/image PATH" in screen.remarks[0]


def test_only_a_saved_chat_is_overwritten(ours, tmp_path):
    screen = Screen(ours, max_new_tokens=2)
    screen.type("hello")
    for name, content in {"a.png": Path(CAT).read_bytes(), "notes.txt": b"precious", "empty": b"", "list.json": b'["a"]'}.items():
        path = tmp_path / name
        path.write_bytes(content)
        screen.type(f"/save {path}")
        assert "is there and is no saved chat" in screen.remarks[0]
        assert path.read_bytes() == content
        screen.type(f"/save --force '{path}'", f"/save {path}")  # by force, and then over what was saved
        assert screen.remarks == [f"[saved to {path}]"] * 2
    screen.type("/save --force")
    assert screen.remarks == ["Error: /save needs a path. Write /save PATH."]


def test_stdin_that_cannot_be_read(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    error = OSError(5, "Input/output error")
    monkeypatch.setattr("idefics2_onnx.runtime.commands.chat._read_line", lambda: (_ for _ in ()).throw(error))
    result = CliRunner().invoke(main, ["chat"])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        "Error: The input cannot be read (Input/output error). Give lines on stdin, or use a terminal."
    )


def test_ctrl_c_stops_an_answer_and_keeps_the_chat(ours, monkeypatch):
    screen, calls, step = Screen(ours, max_new_tokens=9), [], DecodeStep.__call__

    def interrupted(self, tokens):
        calls.append(tokens)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return step(self, tokens)

    monkeypatch.setattr(DecodeStep, "__call__", interrupted)
    screen.type("hello")
    assert screen.remarks == [" [stopped]"]
    assert len(screen.chat.messages) == 2
    monkeypatch.undo()
    assert screen.type("go on") == ours.generate(screen.chat.messages[:-1], max_new_tokens=9).text + "\n"
    lines = iter([KeyboardInterrupt, "/quit", "never read"])

    def read():
        line = next(lines)
        if line is KeyboardInterrupt:
            raise line
        return line

    screen.console.take_all(read)
    assert next(lines) == "never read"


def test_ctrl_c_before_an_answer_keeps_the_pictures(ours, monkeypatch):
    screen = Screen(ours, max_new_tokens=3)
    screen.type(f"/image {CAT}")
    for place in (
        "runtime.engine.engine.Engine.encode_images",
        "runtime.images.idefics2_image_processor.Idefics2ImageProcessor.tiles",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"idefics2_onnx.{place}", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
            screen.type("What is it?")
        assert screen.remarks == [" [stopped]"]
        assert screen.chat.messages == []
    assert screen.type("What is it?") == ours.generate("What is it?", CAT, max_new_tokens=3).text + "\n"
    assert screen.console.images == []


def test_an_answer_that_was_cut_says_so(ours):
    screen = Screen(ours, max_new_tokens=2, eos_token_id=[])
    screen.type("Hi")
    assert screen.cut == ["[cut off at 2 tokens; --max-new-tokens allows more]"]
