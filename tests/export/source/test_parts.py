"""Tensors that are parts or changes of others, read a few rows at a time, and the blocks of the connector's projection."""

from __future__ import annotations

import onnx
import pytest
import torch
from idefics2_onnx.export.quantisation.smoothing import Scaled
from idefics2_onnx.export.source.checkpoint import Held, Part, Stack
from idefics2_onnx.export.source.merged import Merged
from idefics2_onnx.graphs.idefics2.vision import projection_blocks

BASE = Held(torch.randn(700, 30, generator=torch.Generator().manual_seed(0)))
DOWN, UP = Held(torch.randn(2, 30)), Held(torch.randn(700, 2))
TABLE_DOWN, TABLE_UP = Held(torch.randn(2, 700)), Held(torch.randn(30, 2))
CHANGED = {
    "merged": (Merged(BASE, DOWN, UP, 0.5, False), BASE.tensor + 0.5 * UP.tensor @ DOWN.tensor),
    "table": (
        Merged(BASE, TABLE_DOWN, TABLE_UP, 0.5, True),
        BASE.tensor + 0.5 * TABLE_DOWN.tensor.T @ TABLE_UP.tensor.T,
    ),
    "scaled": (
        Scaled(BASE, torch.arange(700.0), torch.arange(30.0)),
        BASE.tensor * torch.arange(700.0)[:, None] * torch.arange(30.0),
    ),
    "plain": (BASE, BASE.tensor),
}


@pytest.mark.parametrize("name", CHANGED)
def test_parts_are_what_they_are_parts_of(name):
    stored, expected = CHANGED[name]
    for rows, columns in ((range(100, 650), range(5, 17)), (range(3, 9), range(30)), (range(700), range(29, 30))):
        part, wanted = Part(stored, rows, columns), expected[rows.start : rows.stop, columns.start : columns.stop]
        assert part.shape == tuple(wanted.shape)
        for start, stop in ((0, len(rows)), (1, 4), (len(rows) - 2, len(rows))):
            assert torch.allclose(part.read(start, stop), wanted[start:stop], atol=1e-5)


@pytest.mark.parametrize("zeros", [0, 5])
def test_stacks_are_their_parts_one_below_another(zeros):
    tensors = [torch.randn(rows, 6).to(dtype) for rows, dtype in ((4, torch.bfloat16), (1, torch.float16), (7, torch.bfloat16))]
    whole = torch.cat([*(tensor.float() for tensor in tensors), torch.zeros(zeros, 6)])
    stack = Stack(tuple(map(Held, tensors)), len(whole))
    assert (stack.shape, stack.dtype) == ((len(whole), 6), torch.float32)
    for start in range(len(whole)):
        for stop in range(start, len(whole) + 1):
            assert torch.equal(stack.read(start, stop), whole[start:stop])


@pytest.mark.parametrize("width", [1, 5, 10, 96, 1000, 1100, 11008, 14336])
def test_blocks_cover_every_channel_once(width):
    blocks = projection_blocks(width)
    assert [channel for block in blocks for channel in block] == list(range(width))
    assert len(blocks) <= 4
    assert all(block.start % 256 == 0 for block in blocks) or width <= 1024


def test_the_projection_is_made_in_blocks(exported):
    names = {
        value.name for value in onnx.load(exported("bf16_checkpoint") / "vision.onnx", load_external_data=False).graph.initializer
    }
    shapes = {name for name in names if "modality_projection" in name}
    assert len(shapes) == 4 * 3
