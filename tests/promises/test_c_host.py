"""The host in C, built and run: the same ids as Python's, where there are a compiler, CMake and ONNX Runtime's header.

The header comes with Debian's and Ubuntu's libonnxruntime-dev; ONNXRUNTIME_INCLUDE names another folder that has it. The library is
the one that Python has.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from idefics2_onnx.runtime.folder import DEMO
from idefics2_onnx.runtime.inputs.request import Request
from idefics2_onnx.runtime.model import Idefics2

HEADERS = Path(os.environ.get("ONNXRUNTIME_INCLUDE", "/usr/include/onnxruntime"))
LIBRARIES = sorted(Path(ort.__file__).parent.glob("capi/libonnxruntime.so*"))
TOOLS = all(map(shutil.which, ("cmake", "cc")))

pytestmark = pytest.mark.skipif(
    not (TOOLS and LIBRARIES and (HEADERS / "onnxruntime_c_api.h").is_file()),
    reason="no compiler, no CMake, or no onnxruntime_c_api.h",
)


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """The program."""
    folder = tmp_path_factory.mktemp("host")
    library = folder / "libonnxruntime.so.1"  # the name that it calls itself, and that the wheel has no file of
    library.symlink_to(LIBRARIES[0])
    names = [f"-DONNXRUNTIME_INCLUDE={HEADERS}", f"-DONNXRUNTIME_LIBRARY={library}"]
    subprocess.run(["cmake", "-S", "examples/c", "-B", folder, *names], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", folder], check=True, capture_output=True)
    return folder / "host"


def answered(host, model, prompt, images, tmp_path, most=40):
    """Ids from the program."""
    (sample,) = Request.read(model.processor, prompt, images).samples(model.engine.pixel_type)
    options = model.options
    np.array(sample.ids, np.int64).tofile(tmp_path / "ids")
    tiles = []
    for number, tile in enumerate(sample.tiles):
        tile.tofile(tmp_path / f"tile{number}")
        tiles += [*map(str, tile.shape[1:]), str(tmp_path / f"tile{number}")]
    never = ",".join(str(word[0]) for word in options.bad_words_ids or [] if len(word) == 1) or "-"
    command = [
        host, model.folder.path, str(model.engine.sizes.image_token_id), str(most), ",".join(map(str, options.eos_token_id)) or "-", never,
        tmp_path / "ids", *tiles,
    ]  # fmt: skip
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [int(line) for line in found.split()]


QUESTIONS = [
    ("What is in the picture?", ["examples/shapes.png"]),
    ("What changed?", ["examples/before.png", "examples/after.png"]),
    ("How much is the milk?", ["examples/receipt.png"]),
    ("Hello", None),
]


@pytest.mark.parametrize(("prompt", "images"), QUESTIONS)
def test_the_demo_answers_the_same(prompt, images, host, tmp_path):
    model = Idefics2.from_pretrained(DEMO)
    expected = model.generate(prompt, images, max_new_tokens=40, do_sample=False)
    assert answered(host, model, prompt, images, tmp_path) == expected.token_ids


@pytest.mark.parametrize(
    "folder", [("plain",), ("plain", "int8"), ("window", "fp16"), ("window", "fp32", "standard")], ids="-".join
)
def test_folders_of_every_kind_answer_the_same(folder, host, model, tmp_path):
    ours = model(*folder)
    expected = ours.generate("What is it?", "examples/cat.jpg", max_new_tokens=12)
    assert answered(host, ours, "What is it?", "examples/cat.jpg", tmp_path, 12) == expected.token_ids


def test_mistakes_are_sentences(host, tmp_path):
    for arguments in ([], ["nowhere", "3", "5", "-", "-", "ids"], [DEMO, "3", "5", "-", "-", tmp_path / "none"]):
        done = subprocess.run([host, *arguments], capture_output=True, text=True)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
