"""The norm that IDEFICS' gated layers apply to each head of queries and keys on its own."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..operators import Operators


def head_norm(operators: Operators, x: Tensor, heads: int, norm: Any) -> Tensor:
    """[batch, seq, heads × head_dim], every head normed."""
    return operators.rms_norm(x.unflatten(-1, (heads, -1)), norm.weight, norm.variance_epsilon).flatten(2)
