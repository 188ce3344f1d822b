"""optimum-cli with the plug-in, beside our own command (`make test-optimum`)."""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from idefics2_onnx.cli import export, main
from idefics2_onnx.runtime.folder import DEMO
from optimum.commands import optimum_cli
from optimum.commands.register.register_idefics2_onnx import RENAMED, Idefics2OnnxExportCommand

CHECKPOINT = Path(__file__).parents[3] / "demo" / "checkpoint"


@pytest.fixture
def cli(monkeypatch):
    """optimum-cli in this process: each new one takes seconds to import torch."""

    def call(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["optimum-cli", *map(str, arguments)])
        optimum_cli.main()

    return call


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_export_onnx_makes_the_demo_model(cli, tmp_path, capfd):
    cli("export", "onnx", "--model", CHECKPOINT, "--task", "image-text-to-text", tmp_path / "out")
    assert files(tmp_path / "out") == files(DEMO)
    output, remarks = capfd.readouterr()
    assert output == f"{tmp_path / 'out'}\n"
    assert "decoder.onnx (logits of prompt " in remarks


@pytest.mark.parametrize(
    ("options", "own"),
    [
        (["--dtype", "int4", "--group-size", "32", "--asymmetric", "--smallest"], ["--int4", "--group-size", "32", "--asymmetric", "--smallest"]),
        (["--dtype", "int8", "--for", "cuda"], ["--int8", "--for", "cuda"]),
        (["--dtype", "float32", "--attention", "standard"], ["--fp32", "--attention", "standard"]),
    ],
    ids=["int4", "int8", "float32"],
)  # fmt: skip
def test_options_do_what_our_command_does_with_them(cli, tmp_path, options, own):
    cli("export", "idefics2-onnx", "-m", CHECKPOINT, *options, "--verify", "never", tmp_path / "theirs")
    ours = CliRunner().invoke(main, ["export", *own, "--verify", "never", "-o", str(tmp_path / "ours"), str(CHECKPOINT)])
    assert ours.exit_code == 0, ours.output
    assert files(tmp_path / "theirs") == files(tmp_path / "ours")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--task", "text-generation"], "--task is 'text-generation', and Idefics2 does image-text-to-text only. Name that, or no task."),
        (["--smallest"], "--smallest goes with --dtype int4."),
        (["--fast-prompts", "--dtype", "int8"], "--fast-prompts goes with --dtype int4 on CPUs."),
        (["--for", "cpu"], "--for, --group-size, --asymmetric and --calibrate go with --dtype int8 or --dtype int4."),
        (["--for", "tpu"], "Invalid value for '--for': 'tpu' is not one of 'cpu', 'cuda'."),
        (["--adapter", "nowhere"], "Invalid value for '--adapter': Directory 'nowhere' does not exist."),
    ],
)  # fmt: skip
def test_what_does_not_go_is_one_sentence(cli, tmp_path, arguments, sentence):
    with pytest.raises(SystemExit) as raised:
        cli("export", "onnx", "-m", CHECKPOINT, *arguments, tmp_path / "out")
    assert raised.value.code == f"Error: {sentence}"
    assert not (tmp_path / "out").exists()


def test_advice_names_options_that_are_there(cli, tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(SystemExit) as raised:
        cli("export", "onnx", "-m", CHECKPOINT, tmp_path)
    assert raised.value.code == f"Error: {tmp_path} already exists and is not an empty folder. Remove it or choose another."


def test_a_folder_that_is_no_checkpoint_ends_without_a_traceback(tmp_path):
    command = [Path(sys.executable).parent / "optimum-cli", "export", "onnx", "-m", tmp_path, tmp_path / "out"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stdout == ""
    (line,) = (line for line in run.stderr.splitlines() if line)
    assert line.startswith(f"Error: {tmp_path}")


def test_a_precision_that_is_unknown_is_refused_as_optimum_does(cli, capsys):
    with pytest.raises(SystemExit) as raised:
        cli("export", "onnx", "-m", CHECKPOINT, "--dtype", "int3", "out")
    assert raised.value.code == 2
    assert "argument --dtype: invalid choice: 'int3'" in capsys.readouterr().err


def test_every_option_of_our_command_is_offered():
    parser = ArgumentParser()
    Idefics2OnnxExportCommand.parse_args(parser)
    known = {name for action in parser._actions for name in action.option_strings}
    ours = {name for each in export.params if isinstance(each, click.Option) and each.name not in RENAMED for name in each.opts}
    assert "--calibrate" in ours
    assert ours <= known
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    assert {name for name in ours if f"`{name}`" not in readme} == set()


def test_the_name_onnx_stays_optimum_onnxs(tmp_path):
    """Two commands of one name would end every call of optimum-cli."""
    package = tmp_path / "optimum" / "exporters" / "onnx"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    register = tmp_path / "optimum" / "commands" / "register"
    register.mkdir(parents=True)
    (register / "register_export.py").write_text(
        "from optimum.commands.base import BaseOptimumCLICommand, CommandInfo\n"
        "from optimum.commands.export.base import ExportCommand\n"
        "class Theirs(BaseOptimumCLICommand):\n"
        "    COMMAND = CommandInfo(name='onnx', help='of optimum-onnx')\n"
        "REGISTER_COMMANDS = [(Theirs, ExportCommand)]\n"
    )
    command = [Path(sys.executable).parent / "optimum-cli", "export", "--help"]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert run.returncode == 0, run.stderr
    assert "{onnx,idefics2-onnx}" in run.stdout or "{idefics2-onnx,onnx}" in run.stdout
    assert "of optimum-onnx" in run.stdout
