"""The chat in a terminal and the benchmark command; Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from idefics2_onnx.cli import main
from idefics2_onnx.runtime.commands.console import Console
from idefics2_onnx.runtime.engine.call import run
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
        self.console = Console(self.chat, self.write, self.remarks.append, allow_urls=False)

    def write(self, piece):
        self.out += piece

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

    screen.console.run(read)
    assert next(lines) == "never read"


def test_ctrl_c_before_an_answer_keeps_the_pictures(ours, monkeypatch):
    screen = Screen(ours, max_new_tokens=3)
    screen.type(f"/image {CAT}")
    for place in ("runtime.engine.engine.Engine.encode_images", "runtime.images.image_processor.Idefics2ImageProcessor.tiles"):
        with monkeypatch.context() as patch:
            patch.setattr(f"idefics2_onnx.{place}", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
            screen.type("What is it?")
        assert screen.remarks == [" [stopped]"]
        assert screen.chat.messages == []
    assert screen.type("What is it?") == ours.generate("What is it?", CAT, max_new_tokens=3).text + "\n"
    assert screen.console.images == []


def test_ctrl_c_ends_a_long_call_of_onnx_runtime():
    """Python hears of the signal only if the main thread does not sit in the call."""

    class Endless:
        def run_with_iobinding(self, binding, options):
            assert threading.current_thread() is not threading.main_thread()
            self.options = options
            # To this thread, as the system may: the main one sleeps on.
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
            for _ in range(6000):  # a call that is not ended fails the test, and does not hang it
                if options.terminate:
                    return
                time.sleep(0.01)

    session = Endless()
    with pytest.raises(KeyboardInterrupt):
        run("vision", session, None)
    assert session.options.terminate


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


def test_bench_command_measures_what_was_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["bench", "--rounds", "1", "--image", "60x80", "--prompt-tokens", "5", "--batch", "2", "--new-tokens", "4"]
    result = CliRunner().invoke(main, [*arguments, "--json", "--plot", "speed.png"], catch_exceptions=False)
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert [(i["width"], i["height"], i["tiles"]) for i in found["images"]] == [(60, 80, 1), (60, 80, 5)]
    (text,) = found["texts"]
    assert (text["batch"], text["prompt_tokens"], text["new_tokens"]) == (2, 5, 4)
    assert text["tokens_per_second"] == pytest.approx(2 / text["seconds_per_token"])
    assert (tmp_path / "speed.png").stat().st_size > 5000
    table = CliRunner().invoke(main, arguments, catch_exceptions=False).stdout
    assert "60×80" in table
    for wrong, words in [
        ("60", "'60' is not WIDTHxHEIGHT"),
        ("0x5", "'0x5' is not"),
        ("²x3", "is not"),
        ("400000x4", "is not"),
        ("99999x99999", "more pixels than the 178,956,970"),
    ]:
        result = CliRunner().invoke(main, ["bench", "--image", wrong])
        assert result.exit_code == 2
        assert words in result.stderr
    result = CliRunner().invoke(main, ["bench", "--prompt-tokens", "5000", "--image", "30x30", "--rounds", "1"])
    assert result.exit_code == 1
    assert "2048 positions, fewer than a prompt of 5000" in result.stderr


def test_run_takes_any_option(tmp_path, demo, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        return CliRunner().invoke(main, ["run", CAT, "What is it?", "--max-new-tokens", "5", *arguments], catch_exceptions=False)

    expected = demo.generate("What is it?", CAT, max_new_tokens=5, do_sample=True, seed=4, temperature=1.5)
    assert call("-O", "do_sample=true", "-O", "seed=4", "-O", "temperature=1.5").stdout == expected.text + "\n"
    beams = demo.generate("What is it?", CAT, max_new_tokens=5, num_beams=3, num_return_sequences=2)
    several = call("-O", "num_beams=3", "-O", "num_return_sequences=2", "--json")
    assert [answer["token_ids"] for answer in json.loads(several.stdout)] == [answer.token_ids for answer in beams]
    assert call("-O", "num_beams=3").stdout == beams[0].text + "\n"
    stats = call("--stats").stderr
    assert "5 tiles encoded" in stats
    assert "tokens read" in stats
    assert call("-O", "stop_strings=zz").exit_code == 0
    for name in ("nonsense", "prompt", "images"):
        wrong = call("-O", f"{name}=1")
        assert wrong.exit_code == 2
        assert f"no generation option '{name}'" in wrong.stderr
    assert call("-O", "seed").exit_code == 2
