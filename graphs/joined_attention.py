"""The projections of a decoder layer's attention, three of them in one."""

from __future__ import annotations

from typing import Any

from torch import nn


class JoinedAttention(nn.Module):
    """A layer's projections, those of queries, keys and values in one product: a step of one row waits for three small ones."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        parts = attention.q_proj, attention.k_proj, attention.v_proj
        outputs = sum(part.out_features for part in parts)
        self.qkv_proj = nn.Linear(parts[0].in_features, outputs, bias=False, dtype=parts[0].weight.dtype)
        self.o_proj = attention.o_proj
