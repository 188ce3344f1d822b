"""The host in C, built and run: the same ids as Python's, where there are a compiler, CMake and ONNX Runtime's header.

The header comes with Debian's and Ubuntu's libonnxruntime-dev; ONNXRUNTIME_INCLUDE names another folder that has it. The library is
the one that Python has.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from idefics2_onnx.graphs.contract import MANIFEST
from idefics2_onnx.runtime.folder import DEMO
from idefics2_onnx.runtime.model import Idefics2

HEADERS = Path(os.environ.get("ONNXRUNTIME_INCLUDE", "/usr/include/onnxruntime"))
LIBRARIES = sorted(Path(ort.__file__).parent.glob("capi/libonnxruntime.so*"))
arguments = runpy.run_path("examples/c/inputs.py")["arguments"]
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


def answered(host, folder, question, pictures, tmp_path, most=40):
    """Ids from the program."""
    given = arguments(folder, tmp_path, question, pictures, most)
    found = subprocess.run([host, folder, *given], check=True, capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


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
    assert answered(host, DEMO, prompt, images or [], tmp_path) == expected.token_ids


@pytest.mark.parametrize(
    "folder", [("plain",), ("plain", "int8"), ("window", "fp16"), ("window", "fp32", "standard")], ids="-".join
)
def test_folders_of_every_kind_answer_the_same(folder, host, model, tmp_path):
    ours = model(*folder)
    expected = ours.generate("What is it?", "examples/cat.jpg", max_new_tokens=12)
    assert answered(host, ours.folder.path, "What is it?", ["examples/cat.jpg"], tmp_path, 12) == expected.token_ids


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({1: "nowhere"}, "nowhere"),
        ({2: "image"}, "IMAGE_TOKEN_ID is no id"),
        ({3: "many"}, "MAX_NEW_TOKENS is no number"),
        ({3: "2305843009213693952"}, "MAX_NEW_TOKENS is no number"),  # times 8 it is 0
        ({4: "x"}, "ENDS or NEVER is not ids"),
        ({5: "3,,4"}, "ENDS or NEVER is not ids"),
        ({6: "none"}, "cannot be read"),
        ({6: "."}, "cannot be read"),
        ({6: "empty"}, "does not hold int64s"),
        ({6: "odd"}, "does not hold int64s"),
        ({7: "-112", 8: "-112"}, "A HEIGHT or WIDTH is no number"),
        ({7: "56"}, "is not [3, HEIGHT, WIDTH]"),
        ({6: "short"}, "not as many image tokens"),
        ({2: "3"}, "not as many image tokens"),
    ],
)
def test_mistakes_are_sentences(changed, words, host, tmp_path):
    sizes = json.loads((DEMO / MANIFEST).read_text())["model"]
    ids = np.array([1, *[sizes["image_token_id"]] * sizes["tokens_per_image"], 5], np.int64)
    for name, content in {"ids": ids, "empty": ids[:0], "odd": ids.view(np.int8)[:-3], "short": ids[:-2]}.items():
        content.tofile(tmp_path / name)
    np.zeros((3, 112, 112), np.float16).tofile(tmp_path / "tile")
    command = [host, DEMO, str(sizes["image_token_id"]), "1", "-", "-", "ids", "112", "112", "tile"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    for place, value in changed.items():
        command[place] = value
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert words in line
    assert done.stdout == ""


def test_without_arguments_it_says_which_there_are(host):
    done = subprocess.run([host], capture_output=True, text=True)
    assert (done.returncode, done.stderr.split()[:2]) == (1, ["host", "FOLDER"])
