"""Buffers on a GPU."""

from __future__ import annotations

import gc

import numpy as np
import onnxruntime as ort
import pytest
from idefics2_onnx.runtime.errors import ProviderError
from idefics2_onnx.runtime.memory.buffer import LARGE, Storage
from idefics2_onnx.runtime.model import Idefics2


def test_zeros_do_not_come_from_the_host(gpu, monkeypatch):
    monkeypatch.setattr(
        ort.OrtValue,
        "ortvalue_from_shape_and_type",
        lambda shape, *_: ort.OrtValue.ortvalue_from_numpy(np.ones(shape, np.float32)),
    )
    storage = Storage("cuda", 1, None, 1)
    assert not storage.buffer(2, 3, 4, 5)._memory.numpy().any()
    assert gpu.cuda.devices == [1]
    assert not gpu.cuda.copied


def test_rows_are_copied_group_by_group(gpu, exported):
    storage = Idefics2.from_pretrained(exported("plain"), "cuda").engine.storage
    source, target = storage.buffer(2, 3, 4, 5), storage.buffer(3, 3, 7, 5)
    numbers = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)
    source.write(numbers)
    target.copy(2, source, 1, 1, 3)
    expected = np.zeros((3, 3, 7, 5), np.float32)
    expected[2, :, 1:3] = numbers[1, :, 1:3]
    assert np.array_equal(target.read(), expected)
    target.copy(0, source, 0, 2, 2)
    assert np.array_equal(target.read(), expected)


def test_large_ones_have_memory_of_their_own(gpu, exported):
    storage = Idefics2.from_pretrained(exported("plain"), "cuda").engine.storage
    before = len(gpu.cuda.memory)
    large, small = storage.buffer(2, 1, LARGE // 32, 4), storage.buffer(1, 1, 5, 4)
    assert large.nbytes == LARGE
    assert len(gpu.cuda.memory) == before + 1
    large.copy(1, large, 0, 3, 5)
    part = large.rows(1, 2)
    del large
    gc.collect()
    assert len(gpu.cuda.memory) == before + 1  # for the part
    assert not part.numpy().any()
    del part, small
    gc.collect()
    assert len(gpu.cuda.memory) == before
    gpu.cuda.room = LARGE
    with pytest.raises(ProviderError, match=r"no memory for 16,777,216 bytes \(out of memory\). Use fewer rows"):
        storage.buffer(2, 1, LARGE // 32, 8)
