"""What IDEFICS' gated layers make of images, by the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


def key_or_value(name: str) -> Callable[[Any, Tensor], Tensor]:
    """(model, features [batch, image_rows, width]) → ``cross.{i}.key`` or ``.value`` [batch, heads, image_rows, head_dim]."""
    _, index, kind = name.split(".")

    def compute(model: Any, features: Tensor) -> Tensor:
        attention = model.model.gated_cross_attn_layers[int(index)].cross_attn
        projection = attention.k_proj if kind == "key" else attention.v_proj
        found: Tensor = projection(features).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        return attention.k_layer_norm(found) if kind == "key" and attention.qk_layer_norms else found

    return compute
