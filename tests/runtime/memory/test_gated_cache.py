"""IDEFICS' cache: which images' keys and values a row has, as rows move."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from idefics2_onnx.runtime.memory.buffer import Storage
from idefics2_onnx.runtime.memory.gated_cache import GatedCache

SIZES = SimpleNamespace(num_layers=1, num_cross_layers=2, num_key_value_heads=3, head_dim=4, image_seq_len=5)


@pytest.fixture
def storage(model):
    return Storage("cpu", 1, model("plain").engine.sessions.decoder)


def test_rows_keep_the_images_that_they_see(storage):
    cache = GatedCache(SIZES, storage, 4, 2)
    empty = cache.nbytes
    cross = {name: storage.buffer(2, 3, 3 * 5, 4) for name in cache._cross}
    for i, buffer in enumerate(cross.values()):
        buffer.write(np.arange(2 * 3 * 15 * 4).reshape(2, 3, 15, 4) + 1000 * i)

    def of(row: int, image: int, name: str) -> np.ndarray:
        return cross[name].read()[row, :, 5 * image : 5 * image + 5]

    cache.see(0, cross, 0, np.array([2]))
    cache.see(1, cross, 1, np.array([], np.int64))
    assert cache.seen.tolist() == [[1], [0], [0], [0]]
    assert cache.nbytes == empty
    cache.see(2, cross, 1, np.array([0, 2]))  # more than one: every row gets the room
    assert cache.seen.tolist() == [[1, 0], [0, 0], [1, 1], [0, 0]]
    assert cache.peak_bytes == cache.nbytes > empty
    cache.take(3, 2)
    cache.take(1, 0)
    assert cache.seen.tolist() == [[1, 0], [1, 0], [1, 1], [1, 1]]
    for name, buffer in cache._cross.items():
        found = buffer.read()
        for row, own in enumerate(([(0, 2)], [(0, 2)], [(1, 0), (1, 2)], [(1, 0), (1, 2)])):
            for slot, image in enumerate(own):
                assert np.array_equal(found[row, :, 5 * slot : 5 * slot + 5], of(*image, name))
    assert type(cache.like(1, 1)).__name__ == "KeyValueCache"  # prefixes are kept without images
    assert cache.token_bytes == 2 * 3 * 4 * 4
