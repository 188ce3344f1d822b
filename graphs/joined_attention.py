"""The projections of a decoder layer's attention, apart or three of them in one."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .operators import AttendWithCache


class JoinedAttention(nn.Module):
    """A layer's projections, those of queries, keys and values in one product: a step of one row waits for three small ones."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        parts = attention.q_proj, attention.k_proj, attention.v_proj
        outputs = sum(part.out_features for part in parts)
        self.qkv_proj = nn.Linear(parts[0].in_features, outputs, bias=False, dtype=parts[0].weight.dtype)
        self.o_proj = attention.o_proj


def attended(attention: Any, x: Tensor, attend: AttendWithCache, past: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """What an attention, joined or not, makes of normed x [batch, seq, hidden] after a past; with present keys and values."""
    if isinstance(attention, JoinedAttention):
        output, key, value = attend(attention.qkv_proj(x), None, None, past)
    else:
        output, key, value = attend(attention.q_proj(x), attention.k_proj(x), attention.v_proj(x), past)
    return attention.o_proj(output), key, value
