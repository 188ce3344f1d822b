"""A decoder's head, and the positions that it is asked for."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.onnx.ops import symbolic

_OUTPUTS = 64
"""The head has a multiple of so many: GPUs' fast kernels read and write rows of whole blocks, and 32,003 words are none."""


class Head(nn.Module):
    """lm_head with outputs that stand for no word, whose weights are zeros, up to a multiple of 64."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.vocab_size: int = head.out_features
        outputs = padded_outputs(head.out_features)
        self.padded = nn.Linear(head.in_features, outputs, bias=False, dtype=head.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """[…, hidden] → […, vocab]."""
        logits: Tensor = self.padded(x)
        return logits if self.padded.out_features == self.vocab_size else logits[..., : self.vocab_size]


def padded_outputs(vocab_size: int) -> int:
    """Outputs of a head."""
    return -(-vocab_size // _OUTPUTS) * _OUTPUTS


def rows_at(x: Tensor, positions: Tensor) -> Tensor:
    """x [batch, seq, hidden] at positions [batch, k] → [batch, k, hidden], by no shape that only the host knows."""
    shape = (*positions.shape, x.shape[2])
    return symbolic("GatherND", (x, positions[:, :, None]), {"batch_dims": 1}, dtype=x.dtype, shape=shape, version=13)
