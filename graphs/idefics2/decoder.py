"""decoder.onnx: Idefics2's Mistral decoder over embeddings, with the key/value cache as inputs and outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.idefics2.modeling_idefics2 import Idefics2ForConditionalGeneration

from ..head import rows_at
from ..joined_attention import attended
from ..operators import CachedAttention, DecoderCall, Operators


class Decoder(nn.Module):
    """inputs_embeds, attention_mask, logit_positions and the cache → logits float32 and the cache with the new tokens.

    `cos` and `sin` are the rotary tables [max_positions, head_dim / 2]; they are parameters here so that the exporter
    finds them under their names like any other weight. Layers' attentions may be `JoinedAttention` where the operators take q,
    k and v in one.
    """

    def __init__(self, model: Idefics2ForConditionalGeneration, operators: Operators, cos: Tensor, sin: Tensor) -> None:
        super().__init__()
        self.text_model, self.lm_head, self.operators = model.model.text_model, model.lm_head, operators
        self.cos, self.sin = nn.Parameter(cos, requires_grad=False), nn.Parameter(sin, requires_grad=False)
        config = model.config.text_config
        self.sizes = CachedAttention(
            config.num_attention_heads, config.num_key_value_heads, config.head_dim, config.sliding_window
        )

    def forward(
        self, inputs_embeds: Tensor, attention_mask: Tensor, logit_positions: Tensor, past: list[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, ...]:
        call = DecoderCall(attention_mask, inputs_embeds.shape[1], past[0][0], self.cos, self.sin)
        attend = self.operators.cached_attention(self.sizes, call)
        x, presents = inputs_embeds, []
        for layer, cache in zip(self.text_model.layers, past, strict=True):
            added, *present = attended(layer.self_attn, self._norm(x, layer.input_layernorm), attend, cache)
            x = x + added
            x = x + layer.mlp(self._norm(x, layer.post_attention_layernorm))
            presents += present
        wanted = self._norm(rows_at(x, logit_positions), self.text_model.norm)
        return (self.lm_head(wanted).to(torch.float32), *presents)

    def _norm(self, x: Tensor, layer: Any) -> Tensor:
        return self.operators.rms_norm(x, layer.weight, layer.variance_epsilon)
