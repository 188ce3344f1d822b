"""A GPU computes what the CPU does, shown with one that is made up."""

from __future__ import annotations

import onnxruntime as ort
import pytest
from idefics2_onnx.runtime.devices.device import CPU, CUDA
from idefics2_onnx.runtime.model import Idefics2
from parity import photos

EXAMPLE = "What is in this picture?"


def test_a_gpu_gives_the_processors_answers(gpu, exported):
    images = photos()[:2]
    for name, precision in (("plain", "fp32"), ("window", "fp16")):
        expected = Idefics2.from_pretrained(exported(name, precision), "cpu").generate(
            [EXAMPLE, "And now?"], [images[:1], images], max_new_tokens=9
        )
        ours = Idefics2.from_pretrained(exported(name, precision), "cuda")
        assert ours.providers == [CUDA, CPU]
        assert ours.engine.storage.device == "cuda"
        found = ours.generate([EXAMPLE, "And now?"], [images[:1], images], max_new_tokens=9)
        assert [one.token_ids for one in found] == [one.token_ids for one in expected]


def test_inputs_are_on_the_gpu_before_a_run(gpu, exported, monkeypatch):
    """A run does not wait for the copies that a binding begins."""
    monkeypatch.setattr(ort.IOBinding, "bind_cpu_input", lambda *_: pytest.fail("the run's own stream would not wait for it"))
    model = Idefics2.from_pretrained(exported("plain"), "cuda")
    assert model.generate(EXAMPLE, photos()[:1], max_new_tokens=2, eos_token_id=[]).token_ids
