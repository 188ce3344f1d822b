"""The runtime with torch, transformers and onnx out of reach: blocked in this environment, and absent from a fresh one."""

from __future__ import annotations

import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "onnx", "onnx_ir", "onnxscript", "safetensors", "optimum", "llguidance"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
"""
WORK = """
import idefics2_onnx
assert "onnxruntime" not in sys.modules and "numpy" not in sys.modules, "importing the package is quick"
from idefics2_onnx import Idefics2, Idefics2ImageProcessor, Idefics2OnnxError, Idefics2Processor
assert "onnxruntime" not in sys.modules
model = Idefics2.from_pretrained()
answer = model.generate("What is in this picture?", images=["examples/cat.jpg"], max_new_tokens=8)
assert len(answer.token_ids) == 8
assert "".join(model.stream("And?", images="examples/cat.jpg", max_new_tokens=8))
inputs = model.processor(text=["<image>Hi", "Ho"], images=[["examples/cat.jpg"], []], padding=True)
assert model.logits(inputs).shape[:2] == inputs["input_ids"].shape
assert len(model.processor.batch_decode(model.generate(**inputs, max_new_tokens=2))) == 2
try:
    model.generate("Is it?", regex="yes|no")
except Idefics2OnnxError as error:
    assert "llguidance" in str(error), error
from idefics2_onnx.runtime.folder import ModelFolder
from idefics2_onnx.runtime.commands.check import check_folder
assert len(list(check_folder(ModelFolder.open()))) == 6
from idefics2_onnx import cli
print("worked")
"""


def test_runtime_with_torch_blocked():
    run = subprocess.run([sys.executable, "-c", BLOCK + WORK], capture_output=True, text=True)
    assert run.stdout == "worked\n", run.stderr


def test_export_names_the_extra_when_torch_is_missing():
    code = BLOCK.replace("raise ImportError", "raise ModuleNotFoundError").replace('is blocked")', 'is blocked", name=name)')
    code += "from idefics2_onnx.cli import main; main(['export', 'somewhere'])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1
    expected = r"Error: Exporting needs \w+, which is not installed. Run: pip install '[^']*\[export\]'\n"
    assert re.fullmatch(expected, run.stderr)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, "."]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_the_package_and_nothing_else(wheel):
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout.split()
    folders = ("demo/", "export/", "freezing/", "graphs/", "on_ray/", "runtime/")
    shipped = {f for f in tracked if f in ("__init__.py", "__main__.py", "cli.py", "py.typed") or f.startswith(folders)}
    expected = {f for f in shipped if not f.startswith(("demo/README.md", "demo/checkpoint/"))}
    with zipfile.ZipFile(wheel) as archive:
        names = {name.removeprefix("idefics2_onnx/") for name in archive.namelist() if ".dist-info/" not in name}
    assert names == expected


def test_fresh_environment_has_no_torch_and_works(wheel, tmp_path):
    venv.create(tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python]  # this environment's, which need not be made again
    install = [*pip, "install", "--quiet", "--no-compile", "-c", "constraints.txt", f"{wheel}[cpu]"]
    subprocess.run(install, check=True, capture_output=True)
    listed = subprocess.run([*pip, "list", "--format=freeze"], capture_output=True, text=True, check=True).stdout
    names = {line.partition("==")[0].lower() for line in listed.split()}
    assert "onnxruntime" in names
    assert not {"torch", "transformers", "onnx", "onnxscript", "onnx-ir", "safetensors"} & names
    run = subprocess.run([python, "-c", "import sys" + WORK], capture_output=True, text=True)
    assert run.stdout == "worked\n", run.stderr
    replayed = subprocess.run([python, "tests/support/goldens.py"], capture_output=True, text=True)
    assert "goldens replayed" in replayed.stdout, replayed.stderr
