"""Buffers on a GPU."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
from idefics2_onnx.runtime.memory.buffer import Storage
from idefics2_onnx.runtime.model import Idefics2


def test_zeros_do_not_come_from_the_host(gpu, monkeypatch):
    monkeypatch.setattr(
        ort.OrtValue,
        "ortvalue_from_shape_and_type",
        lambda shape, *_: ort.OrtValue.ortvalue_from_numpy(np.ones(shape, np.float32)),
    )
    storage = Storage("cuda", 1, None, 1)
    assert not storage.buffer(2, 3, 4, 5)._value.numpy().any()
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
