"""Without Ray: a pip line; and nothing imports it unasked."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCK = """
import sys
from importlib.machinery import PathFinder

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ray":
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.parametrize("name", ["map_batches", "deployment"])
def test_the_import_names_the_extra(name):
    run = subprocess.run(
        [sys.executable, "-c", BLOCK + f"from idefics2_onnx.on_ray import {name}"], capture_output=True, text=True
    )
    assert "This needs Ray, which is not installed. Run: pip install '" in run.stderr.splitlines()[-1]
    assert "[ray]'" in run.stderr.splitlines()[-1]


def test_the_command_names_the_extra(tmp_path):
    code = (
        BLOCK
        + "from idefics2_onnx.cli import main; main(['batch', 'photos', '-o', 'out.jsonl', '--prompt', 'What?', '--ray', 'local'])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 1
    assert run.stderr.startswith("Error: This needs Ray, which is not installed. Run: pip install '")


def test_ray_is_not_imported_unasked():
    code = "import idefics2_onnx.cli, idefics2_onnx.on_ray, sys; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
