"""The small app that mypy checks, run; and what else an app does with a model."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import idefics2_onnx
import numpy as np
import pytest
from click.testing import CliRunner
from idefics2_onnx.cli import main
from idefics2_onnx.graphs.errors import ModelFolderError
from idefics2_onnx.runtime.engine import engine
from idefics2_onnx.runtime.errors import PromptError, ProviderError
from idefics2_onnx.runtime.model import Idefics2
from typed_app import answers, later

CAT = Path("examples/cat.jpg")


@pytest.fixture(scope="module")
def demo():
    return Idefics2.from_pretrained()


def test_the_app_runs(demo):
    found = answers(None, CAT)
    assert len(found) == 9
    assert found[0] == found[1] == found[6] == demo.generate("What is it?", CAT, max_new_tokens=3).text
    one, several = asyncio.run(later(demo, CAT))
    assert one == found[0]
    assert several == [answer.text for answer in demo.generate(["What?", "Where?"], max_new_tokens=3)]


def test_a_closed_model_says_so(demo):
    with Idefics2.from_pretrained() as model:
        chat = model.chat(max_new_tokens=2)
    for call in (lambda: model.generate("Hi"), lambda: model.providers, lambda: model.score("Hi", answer="You")):
        with pytest.raises(PromptError, match="This model is closed. Open the folder again"):
            call()
    assert chat.send("Hi").token_ids == demo.generate("Hi", max_new_tokens=2).token_ids
    model.close()


def test_names_are_listed():
    assert {*idefics2_onnx.__all__, "__version__"} <= set(dir(idefics2_onnx))


@pytest.mark.parametrize("source", [5, b"x", ["a"], True])
def test_a_source_that_is_none(source):
    with pytest.raises(ModelFolderError, match=r"The source is .*\. Give a model folder, a hub id, or nothing"):
        Idefics2.from_pretrained(source)


@pytest.mark.parametrize("device", [None, 3, ["cpu"]])
def test_a_device_that_is_none(device):
    with pytest.raises(ProviderError, match=r"The device is .*\. Choose one of"):
        Idefics2.from_pretrained(device=device)


class Stop:
    """Says so after some tokens, and notes what it is asked."""

    def __init__(self, after):
        self.after, self.seen = after, []

    def __call__(self, ids, scores):
        assert (ids.dtype, len(ids), scores) == (np.int64, 1, None)
        self.seen.append(ids[0].tolist())
        return np.array([len(self.seen) >= self.after])


def test_stopping_criteria_end_an_answer(demo):
    """As the reference's do: they see prompt and answer after every token; each row of a batch ends by itself."""
    whole = demo.generate("What is in the picture?", CAT, max_new_tokens=9, eos_token_id=[])
    stop = Stop(4)
    found = demo.generate("What is in the picture?", CAT, max_new_tokens=9, eos_token_id=[], stopping_criteria=stop)
    assert found.token_ids == whole.token_ids[:4]
    assert found.finish_reason == "stop"
    assert [len(ids) for ids in stop.seen] == [whole.prompt_tokens + n for n in (1, 2, 3, 4)]
    assert stop.seen[-1][-4:] == found.token_ids
    inputs = demo.processor(text=["Hi", "What is it?"], padding=True)
    long = int(inputs.attention_mask.sum(1).max())
    rows = demo.generate(
        **inputs, max_new_tokens=6, eos_token_id=[], pad_token_id=0, stopping_criteria=[lambda ids, _: ids.shape[1] > long + 1]
    )
    plain = demo.generate(**inputs, max_new_tokens=6, eos_token_id=[], pad_token_id=0)
    assert (rows[1] == plain[1][: rows.shape[1]])[: long + 2].all()
    assert not rows[1][long + 2 :].any()


def test_an_answer_can_be_ended_from_another_thread(demo):
    event, texts = threading.Event(), []
    with demo.stream("Hi", max_new_tokens=300, eos_token_id=[], stopping_criteria=lambda *_: event.is_set()) as stream:
        for piece in stream:
            texts.append(piece)
            event.set()
        assert stream.result.finish_reason == "stop"
    assert 0 < len(stream.result.token_ids) < 300


def test_a_cancelled_task_ends_its_answer(demo):
    began, ended = threading.Event(), threading.Event()

    def watch(ids, _):
        began.set()
        return False

    real = demo.generate

    def noted(*arguments, **options):
        try:
            return real(*arguments, **options)
        finally:
            ended.set()

    async def cancel(model):
        task = asyncio.create_task(model.agenerate("Hi", max_new_tokens=1500, eos_token_id=[], stopping_criteria=watch))
        await asyncio.to_thread(began.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "generate", noted, raising=False)
        asyncio.run(cancel(demo))
    assert ended.wait(60)


def test_max_time_ends_an_answer_after_a_token(demo):
    found = demo.generate("Hi", max_new_tokens=50, eos_token_id=[], max_time=0)
    assert (len(found.token_ids), found.finish_reason) == (1, "length")
    assert len(demo.generate("Hi", max_new_tokens=5, eos_token_id=[], max_time=1e6).token_ids) == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"use_cache": False}, "use_cache is False, which is not offered here"),
        ({"output_scores": True}, "output_scores is True, which is not offered here"),
        ({"stopping_criteria": "x"}, "stopping_criteria is 'x'"),
        ({"max_time": -1}, "max_time is -1"),
        ({"max_time": 1, "num_beams": 2}, "num_beams is 2 and max_time 1"),
        ({"stopping_criteria": len, "num_beams": 2}, "exclude each other"),
        ({"num_beams": 5000}, r"num_beams is 5000\. Give a whole number from 1 to 4,096"),
        ({"num_return_sequences": 10**9, "do_sample": True}, "num_return_sequences is 1000000000"),
    ],
)
def test_options_that_cannot_be(options, words, demo):
    with pytest.raises(PromptError, match=words):
        demo.generate("Hi", **options)
    demo.generate("Hi", max_new_tokens=1, use_cache=True, return_dict_in_generate=False)


def test_rows_that_no_memory_holds_are_refused_before_they_are_made(demo, monkeypatch):
    monkeypatch.setattr("idefics2_onnx.runtime.engine.engine.total_memory", lambda: 10_000_000)
    with pytest.raises(PromptError, match=r"4,096 rows of \d+ prompt tokens need [\d.]+ GB; this machine has 0\.0\."):
        demo.generate("Hi", do_sample=True, num_return_sequences=4096)
    assert demo.generate("Hi", max_new_tokens=1).token_ids


def test_inputs_are_attributes_too(demo):
    inputs = demo.processor(text="Hi", images=None)
    assert inputs.input_ids is inputs["input_ids"]
    assert inputs.to("cuda:0") is inputs
    with pytest.raises(AttributeError, match=r"The inputs have no 'pixels', only input_ids, attention_mask"):
        _ = inputs.pixels
    assert demo.generate(**inputs.to("cpu"), max_new_tokens=2).shape[1] == inputs.input_ids.shape[1] + 2


def test_features_past_the_type_are_the_callers(model):
    """And not the folder's, which the error named."""
    ours = model("plain", "fp16")
    (features,) = ours.encode_images(CAT)
    with pytest.raises(PromptError, match=r"image_features has numbers up to 1e\+06, and this folder's type holds 65,504"):
        ours.generate("Hi", image_features=[features * 0 + 1e6])
    inputs = {"inputs_embeds": np.full((1, 2, ours.engine.sizes.hidden_size), 1e6, np.float32)}
    with pytest.raises(PromptError, match=r"inputs_embeds has numbers up to 1e\+06"):
        ours.generate(**inputs)


def test_a_reader_is_named_only_where_there_is_one(demo, monkeypatch):
    """A folder without prompt.onnx has nothing of that name to look at."""
    real = engine.run

    def fails(graph, *rest, **options):
        if graph in ("prompt", "decoder"):
            raise ProviderError(graph)
        return real(graph, *rest, **options)

    monkeypatch.setattr(engine, "run", fails)
    with pytest.raises(ProviderError, match="^decoder$"):
        demo.generate("Hi")


def test_the_package_is_a_command():
    done = subprocess.run([sys.executable, "-m", "idefics2_onnx", "--version"], capture_output=True, text=True)
    assert done.stdout.strip() == f"python -m idefics2_onnx, version {idefics2_onnx.__version__}"


def test_options_are_looked_at_before_the_model_is_opened():
    for command in (["run", "Hi"], ["chat"]):
        done = CliRunner().invoke(main, [*command, "-m", "/nowhere", "-O", "temperature=hot"])
        assert "temperature is 'hot'. Give a number from" in done.stderr
        assert done.exit_code == 1
