"""The demo model answers right: a slice of its evaluation with floors, the examples, and transformers' own answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from demo_agreement import differing
from idefics2_onnx.cli import main
from idefics2_onnx.demo import evaluate, examples
from idefics2_onnx.demo.tasks import TASKS
from idefics2_onnx.export import export_model
from idefics2_onnx.runtime.model import Idefics2
from parity import Reference
from PIL import Image

CHECKPOINT = Path("demo/checkpoint")
EXAMPLES = Path("examples")
FLOORS = {
    "shapes": 0.97, "counting": 0.9, "reading": 0.95, "small text": 0.9, "receipt": 0.95, "comparing": 0.9, "follow-up": 0.97,
    "absence": 0.97,
}  # fmt: skip
"""Of 50 cases each: what demo/README.md says, less two or three answers that another machine may round otherwise."""


@pytest.fixture(scope="module")
def demo() -> Idefics2:
    return Idefics2.from_pretrained()


@pytest.mark.parametrize("cases", [16, pytest.param(50, marks=pytest.mark.sweep)])
@pytest.mark.parametrize("task", TASKS)
def test_held_out_questions_are_answered(demo, task, cases):
    score = evaluate.score(demo, task, range(cases))
    assert score.cases == cases
    assert cases - score.right <= max(1, (1 - FLOORS[task]) * cases), score


def test_splitting_makes_small_text_legible(demo):
    split, whole = (evaluate.score(demo, "small text", range(16), do_image_splitting=on) for on in (True, False))
    assert split.right >= whole.right + 12


@pytest.mark.parametrize("example", json.loads((EXAMPLES / examples.QUESTIONS).read_text()), ids=lambda e: e["question"])
def test_examples_are_answered_right(demo, example):
    answer = demo.generate(example["question"], [EXAMPLES / name for name in example["images"]])
    assert answer.text == example["answer"]
    assert answer.finish_reason == "stop"


def test_examples_are_those_the_script_draws(tmp_path):
    CliRunner().invoke(examples.main, [str(tmp_path)], catch_exceptions=False)
    assert (tmp_path / examples.QUESTIONS).read_bytes() == (EXAMPLES / examples.QUESTIONS).read_bytes()
    for path in tmp_path.glob("*.png"):
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(EXAMPLES / path.name))), path.name


def test_a_foreign_photo_gets_an_answer(demo):
    answer = demo.generate("What is in the picture?", EXAMPLES / "cat.jpg")
    assert answer.text


def test_the_demo_says_what_it_is_once(tmp_path, monkeypatch):
    monkeypatch.delenv("IDEFICS2_ONNX_MODEL", raising=False)
    picture = str((EXAMPLES / "shapes.png").resolve())
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["run", picture, "What is in the picture?"], catch_exceptions=False)
    assert result.stderr.count("demo model") == 1
    assert "idefics2-onnx export" in result.stderr
    assert "demo" not in result.stdout


def test_transformers_gives_the_same_answers(demo):
    """To the model that ships, in fp16, of whose answers another machine may round one otherwise."""
    reference = Reference.load(CHECKPOINT)
    assert sum(len(differing(reference, demo, task, range(1000, 1003))) for task in TASKS) <= 1


@pytest.mark.sweep
def test_transformers_gives_the_same_answers_in_fp32(tmp_path):
    folder = export_model(CHECKPOINT, tmp_path / "fp32", "fp32", verify="never").folder
    reference, ours = Reference.load(CHECKPOINT), Idefics2.from_pretrained(folder)
    for task in TASKS:
        assert not differing(reference, ours, task, range(1000, 1008)), task


def test_evaluation_prints_counts_intervals_and_differences(tmp_path):
    arguments = ["--cases", "4", "--task", "absence", "--task", "shapes", "--against", "demo/model", "-O", "max_new_tokens=40"]
    result = CliRunner().invoke(evaluate.main, arguments, catch_exceptions=False)
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["absence", "shapes", "all"]
    assert all("0 answers differ" in line and " to " in line for line in lines)
    shown = CliRunner().invoke(
        evaluate.main, ["--cases", "4", "--task", "shapes", "--json", "--no-split"], catch_exceptions=False
    )
    found = json.loads(shown.stdout)
    assert (found["task"], found["cases"], found["differ"]) == ("shapes", 4, None)


@pytest.mark.parametrize(("right", "cases", "low", "high"), [(0, 10, 0.0, 0.278), (5, 10, 0.237, 0.763), (500, 500, 0.992, 1.0)])
def test_wilson_interval(right, cases, low, high):
    assert evaluate.interval(right, cases) == pytest.approx((low, high), abs=5e-4)
