"""The key/value cache: growth and rows that move, also on a device whose copies are faked on the host."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from idefics2_onnx.runtime.memory import cuda_runtime
from idefics2_onnx.runtime.memory.buffer import Storage
from idefics2_onnx.runtime.memory.key_value_cache import KeyValueCache
from made_up_cuda import MadeUpCuda
from parity import photos

SIZES = SimpleNamespace(num_layers=2, num_key_value_heads=3, head_dim=4)


@pytest.fixture(params=["cpu", "device"])
def storage(request, model, monkeypatch):
    """The host's memory, or the path of a device with the host's memory behind it."""
    session = model("plain").engine.sessions.decoder
    if request.param == "cpu":
        return Storage("cpu", 1, session)

    from onnxruntime.capi import onnxruntime_inference_collection as python_side

    device_type = python_side.get_ort_device_type
    monkeypatch.setattr(python_side, "get_ort_device_type", lambda name: device_type("cpu" if name == "fake" else name))

    cuda = MadeUpCuda()
    monkeypatch.setattr(cuda_runtime, "_library", lambda: cuda)
    return Storage("fake", 1, session)


def filled(storage, batch, capacity, tokens):
    """A cache whose number at each place is its own, and its rows' contents."""
    cache = KeyValueCache(SIZES, storage, batch, capacity)
    for i, buffer in enumerate(cache._buffers.values()):
        buffer.write(np.arange(batch * 3 * capacity * 4).reshape(batch, 3, capacity, 4) + 10_000 * i)
    cache.tokens[:] = tokens
    return cache


def contents(cache):
    """What counts of every row."""
    return [[buffer.read()[row, :, :held] for buffer in cache._buffers.values()] for row, held in enumerate(cache.tokens)]


def assert_equal(a, b):
    assert all(
        (x == y).all() and x.shape == y.shape for row, other in zip(a, b, strict=True) for x, y in zip(row, other, strict=True)
    )


def test_growth_keeps_every_row(storage):
    cache = filled(storage, 3, 7, [7, 2, 0])
    before = contents(cache)
    cache.reserve(7, 100)
    assert cache.capacity == 7
    cache.reserve(8, 100)
    assert cache.capacity == 100  # as far as the limit
    assert_equal(contents(cache), before)
    cache.reserve(101, 101)
    assert cache.capacity == 101
    assert_equal(contents(cache), before)
    assert cache.nbytes == cache.peak_bytes == 4 * 3 * 3 * 101 * 4 * 4


@pytest.mark.parametrize("start", [0, 2])
def test_any_reordering_is_done(storage, start):
    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.integers(0, 4), min_size=5, max_size=5))
    def check(sources):
        cache = filled(storage, 6, 5, 4)
        for buffer in cache._buffers.values():  # rows that are reordered from `start` on are equal before it
            values = buffer.read()
            values[:, :, :start] = 7
            buffer.write(values)
        before = contents(cache)
        cache.reorder(1, sources, start)
        assert_equal(contents(cache), [before[0], *(before[1 + source] for source in sources)])

    check()


def test_rows_come_from_other_caches(storage):
    source, target = filled(storage, 2, 6, [6, 3]), KeyValueCache(SIZES, storage, 3, 9)
    target.copy_row(2, 1, source)
    target.copy_row(0, 0, source, stop=4)
    assert target.tokens.tolist() == [4, 0, 3]
    expected = contents(source)
    assert_equal([contents(target)[2]], [expected[1]])
    assert_equal([contents(target)[0]], [[part[:, :4] for part in expected[0]]])


def test_bfloat16_is_rounded_to_the_nearest_even(model):
    buffer = Storage("cpu", 16, model("plain").engine.sessions.decoder).buffer(1, 1, 2, 3)
    values = np.array([1.0, -2.5, 1 + 2**-8, 1 + 3 * 2**-8, 3.14159, 1e-40], np.float32)
    buffer.write(values)
    assert buffer.read().reshape(-1).tolist() == [1.0, -2.5, 1.0, 1 + 2**-6, 3.140625, pytest.approx(1e-40, rel=1e-2)]


def test_long_answers_grow_the_cache_and_change_nothing(model, reference, monkeypatch):
    ours, theirs = model("window"), reference("window")
    monkeypatch.setattr("idefics2_onnx.runtime.memory.key_value_cache.GROWTH", 3)
    inputs = theirs.inputs(["<image> a", "b"], [[photos()[0]], []], False)
    options = {"max_new_tokens": 60, "suppress_tokens": [2, 261]}
    assert ours.generate(**inputs, **options).tolist() == theirs.generate(inputs, **options).tolist()
    answer = ours.generate("b", raw=True, **options)
    assert answer.timings.cache_bytes < 2 * 2 * 4 * 8 * 16 * 4 * 80
