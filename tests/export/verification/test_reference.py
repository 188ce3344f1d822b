"""What is kept of a checkpoint between those who compute with the same rows."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from idefics2_onnx.export.verification.reference import Memory
from torch import Tensor


@dataclass(frozen=True)
class Counted:
    """Rows of numbers that count up, and what was read of them."""

    shape: tuple[int, ...] = (10, 3)
    dtype: torch.dtype = torch.float32
    reads: list[tuple[int, int]] = field(default_factory=list, hash=False, compare=False)

    def read(self, start: int, stop: int) -> Tensor:
        self.reads.append((start, stop))
        return torch.arange(30.0).view(self.shape)[start:stop]


def test_rows_that_are_kept_are_not_read_again():
    """Whatever the borders of who reads them next."""
    memory, tensor = Memory(), Counted()
    whole = tensor.read(0, 10)
    with memory.keeping():
        tensor.reads.clear()
        for start, stop in ((4, 8), (0, 4), (0, 8), (1, 3), (2, 7), (5, 6), (8, 10), (7, 10), (0, 10)):
            assert torch.equal(memory.read(tensor, start, stop), whole[start:stop])
        assert tensor.reads == [(4, 8), (0, 4), (8, 10)]
        assert torch.equal(memory.read(Counted((5, 6)), 0, 5), torch.arange(30.0).view(5, 6))
    assert torch.equal(memory.read(tensor, 0, 2), whole[:2])
    assert tensor.reads[3:] == [(0, 2)]
    assert not memory.blocks
