"""IDEFICS' modules, by the names that the graphs have for them."""

from __future__ import annotations

import re
from typing import Any

from torch import nn
from transformers.models.idefics.modeling_idefics import IdeficsAttention
from transformers.models.idefics.perceiver import IdeficsPerceiverAttention
from transformers.models.idefics.vision import IdeficsVisionAttention

from ....graphs.contract import GraphName
from ..comparison import Attention
from .borders import decoder_layers

_KEY_NORM = r"gated_cross_attn_layers\.\d+\.cross_attn\.k_layer_norm"
_NAMES = {
    "vision": r"(vision_model(?!\.post_layernorm)|perceiver_resampler)",
    "cross": _KEY_NORM,
    "decoder": rf"(?!{_KEY_NORM})(gated_cross_attn_layers|layers|norm)",
}


def modules(model: Any, graph: GraphName) -> tuple[dict[str, nn.Module], list[Attention]]:
    pattern = _NAMES.get("decoder" if graph == "prompt" else graph)
    if pattern is None:
        return {}, []
    found = {path: module for path, module in model.model.named_modules() if re.match(pattern, path)}
    inside = "norm" in found  # of the decoder, whose gated layers stand among the others
    order = sorted(found, key=lambda path: _place(path, model)) if inside else list(found)
    return found, [attention for path in order if (attention := _attention(found[path])) is not None]


def _place(path: str, model: Any) -> int:
    layers = decoder_layers(len(model.model.layers), len(model.model.gated_cross_attn_layers))
    return layers.index(".".join(path.split(".")[:2])) if path.count(".") >= 1 else len(layers)


def _attention(module: Any) -> Attention | None:
    if isinstance(module, IdeficsVisionAttention):
        return Attention(module.num_heads, module.num_heads, module.scale)
    if isinstance(module, IdeficsPerceiverAttention):
        return Attention(module.n_heads, module.n_heads, module.qk_scale)
    if isinstance(module, IdeficsAttention):
        return Attention(module.num_heads, module.num_heads, module.scaling, cached=not module.is_cross_attention)
    return None
