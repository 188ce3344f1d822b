"""Choosing the likeliest token where the logits are."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from idefics2_onnx.export.argmax import argmax_graph
from idefics2_onnx.graphs.contract import ARGMAX
from idefics2_onnx.graphs.errors import ModelFolderError
from idefics2_onnx.runtime.devices.device import CPU
from idefics2_onnx.runtime.devices.gpu_options import GpuOptions
from idefics2_onnx.runtime.engine import argmax
from idefics2_onnx.runtime.memory.buffer import Storage
from idefics2_onnx.runtime.model import Idefics2

EXAMPLE = "What is in this picture?"


def test_greedy_steps_bring_ids_back_and_others_logits(gpu, exported):
    ours = Idefics2.from_pretrained(exported("plain"), "cuda")
    logits = 4 * ours.engine.sizes.vocab_size
    ours.generate(EXAMPLE, max_new_tokens=9, eos_token_id=[])
    assert gpu.cuda.copied.count(logits) == 1  # the prompt's
    for options in (
        {"do_sample": True},
        {"logprobs": True},
        {"repetition_penalty": 1.3},
        {"min_new_tokens": 3},
    ):
        gpu.cuda.copied.clear()
        ours.generate(EXAMPLE, max_new_tokens=9, eos_token_id=[], **options)
        assert gpu.cuda.copied.count(logits) == 9
    plain = Idefics2.from_pretrained(exported("plain"), "cuda", gpu_options=GpuOptions(argmax=False))
    assert plain.engine.argmax is None


def test_logits_that_are_not_finite_are_noticed_on_the_gpu(gpu, exported, monkeypatch):
    ours = Idefics2.from_pretrained(exported("plain"), "cuda")
    monkeypatch.setattr(argmax.Argmax, "__call__", lambda self: ([5], np.array([[np.nan]], np.float32)))
    with pytest.raises(ModelFolderError, match="not finite"):
        ours.generate(EXAMPLE, max_new_tokens=3, eos_token_id=[])


def test_the_argmax_that_ships_is_the_one_that_is_written():
    shipped = argmax.files(argmax.graphs).joinpath(ARGMAX).read_bytes()
    assert onnx.load_from_string(shipped) == argmax_graph()
    session = argmax.open_argmax([CPU])
    logits = np.random.default_rng(0).normal(size=(3, 1, 999)).astype(np.float32)
    logits[1, 0, [40, 700]] = 9  # the first of two
    logits[2, 0, 3] = np.inf
    value, storage = ort.OrtValue.ortvalue_from_numpy(logits), Storage("cpu", 1, None)
    ids, total = argmax.Argmax(session, value, np.array([], int), storage)()
    assert ids == logits[:, 0].argmax(-1).tolist()
    assert ids[1] == 40
    never = [ids[0], 40]
    ids, _ = argmax.Argmax(session, value, np.array(never), storage)()
    logits[:, 0, never] = -np.inf
    assert ids == logits[:, 0].argmax(-1).tolist()
    assert np.isfinite(total[:2]).all()
    assert not np.isfinite(total[2]).any()
