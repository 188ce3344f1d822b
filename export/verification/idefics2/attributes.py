"""Idefics2's modules, by the names that the graphs have for them."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.models.idefics2.modeling_idefics2 import Idefics2PerceiverAttention, Idefics2VisionAttention
from transformers.models.mistral.modeling_mistral import MistralAttention

from ....graphs.contract import GraphName
from ..comparison import Attention


def modules(model: Any, graph: GraphName) -> tuple[dict[str, nn.Module], list[Attention]]:
    if graph == "embedding":
        return {}, []
    root = model.model if graph == "vision" else model.model.text_model
    prefix = "" if graph == "vision" else "text_model."
    found = {f"{prefix}{path}": m for path, m in root.named_modules() if graph != "vision" or not path.startswith("text_model")}
    return found, [attention for module in found.values() if (attention := _attention(module)) is not None]


def _attention(module: Any) -> Attention | None:
    if isinstance(module, Idefics2VisionAttention):
        return Attention(module.num_heads, module.num_heads, module.scale)
    if isinstance(module, Idefics2PerceiverAttention):
        return Attention(module.num_heads, module.num_key_value_heads, module.scaling)
    if isinstance(module, MistralAttention):
        config = module.config
        return Attention(config.num_attention_heads, config.num_key_value_heads, module.scaling, cached=True)
    return None
