"""What a program's streams are set to never ends it: encodings, closed streams, full disks, pipes that end early."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SAY = """
import sys, idefics2_onnx.cli as cli, click
from idefics2_onnx.runtime.commands.standard_streams import json_text
from idefics2_onnx.runtime.commands.output import say as remark

@cli.main.command()
def say():
    click.echo("a 画 é \\udcff \\ud800")
    remark("b 画 é \\udcff \\ud800")
    click.echo(json_text({"text": "画 é \\udcff \\ud800"}))
    click.echo(input())

cli.main(["say"], prog_name="say")
"""
SHORT = ("run", "Hi", "--max-new-tokens", "2")


def program(code, *arguments, **options):
    options = {"capture_output": True} | options
    return subprocess.run([sys.executable, "-c", code, *arguments], **options)


def command(*arguments):
    return [sys.executable, "-c", "from idefics2_onnx.cli import main; main(prog_name='x')", *arguments]


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "ascii", "utf-16", "utf-8:strict"])
def test_what_an_encoding_does_not_have_is_replaced(encoding):
    run = program(SAY, env=os.environ | {"PYTHONIOENCODING": encoding}, input=b"\xff\xfeh\x81\n")
    assert run.returncode == 0, run.stderr
    codec = encoding.partition(":")[0]
    text = run.stdout.decode("utf-8" if codec == "ascii" else codec)
    lines = text.splitlines()
    assert lines[0].startswith("a ")
    assert ("画" in lines[0]) == (codec in ("utf-8", "utf-16", "ascii"))  # click writes UTF-8 where it is ascii
    assert json.loads(lines[1]) == {"text": "画 é \udcff \ud800"}
    assert b"Traceback" not in run.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell closes the streams")
@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_closed_streams(closed, tmp_path):
    run = subprocess.run(f"{' '.join(map(repr, command('chat', '--max-new-tokens', '2')))} {closed}", shell=True, capture_output=True, stdin=subprocess.DEVNULL, cwd=tmp_path)  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert b"Traceback" not in run.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell closes the streams")
def test_a_closed_stream_takes_any_letters():
    run = subprocess.run(["/bin/sh", "-c", '"$0" -c "$1" >&-', sys.executable, SAY], input=b"\xff\n", capture_output=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_a_stream(unbuffered):
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        run = subprocess.run(command(*SHORT), stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
        assert run.returncode == 1
        assert "Traceback" not in run.stderr
        expected = "Error: The output cannot be written (No space left on device). Free some space or write elsewhere."
        assert run.stderr.splitlines()[-1] == expected
        run = subprocess.run(command(*SHORT), stdout=subprocess.PIPE, stderr=full, text=True, env=environment)
        assert run.returncode == 0
        assert run.stdout
        wrong = subprocess.run(command("run", "Hi", "-m", "nowhere"), stdout=full, stderr=full, env=environment)
        assert wrong.returncode == 1


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX pipe")
def test_a_reader_that_leaves():
    process = subprocess.Popen(command(*SHORT), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    error = process.stderr.read()
    assert process.wait() == 1
    assert b"Traceback" not in error
    assert b"Exception ignored" not in error
