"""Arithmetic on sizes: against the reference for any size, and its own invariants."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from idefics2_onnx.runtime.images.geometry import Size, resized, tile_boxes
from transformers.image_utils import SizeDict
from transformers.models.idefics2.image_processing_pil_idefics2 import get_resize_output_image_size

sides = st.integers(1, 12_000)
edges = st.tuples(st.integers(1, 600), st.integers(1, 2000)).map(sorted)


@given(sides, sides, edges)
def test_resized_equals_the_reference(height, width, edges):
    shortest, longest = edges
    stub = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (3, height, width), (0, 0, 0))
    expected = get_resize_output_image_size(stub, SizeDict(shortest_edge=shortest, longest_edge=longest))
    assert resized(Size(height, width), shortest, longest) == expected


@given(sides, sides, edges)
def test_resized_stays_within_the_edges(height, width, edges):
    shortest, longest = edges
    size = resized(Size(height, width), shortest, longest)
    assert min(size) >= shortest
    assert max(size) <= longest


@given(sides, sides)
def test_quarters_cover_the_image_once(height, width):
    *quarters, whole = tile_boxes(Size(height, width), split=True)
    assert whole == (0, 0, width, height)
    assert len(quarters) == 4
    assert sum(box.size.height * box.size.width for box in quarters) == height * width
    for box in quarters:
        assert 0 <= box.left <= box.right <= width
        assert 0 <= box.upper <= box.lower <= height
    first = quarters[0]
    assert [(b.left, b.upper) for b in quarters] == [(0, 0), (first.right, 0), (0, first.lower), (first.right, first.lower)]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((300, 451), (378, 451)), ((3000, 4000), (735, 980)), ((4000, 3000), (980, 735)), ((100, 4000), (378, 980)), ((980, 980), (980, 980)), ((981, 981), (980, 980))],
)  # fmt: skip
def test_known_sizes(size, expected):
    assert resized(Size(*size), 378, 980) == expected


def test_without_splitting_there_is_one_box():
    assert tile_boxes(Size(3, 5), split=False) == [(0, 0, 5, 3)]
