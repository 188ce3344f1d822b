"""decoder.onnx: Idefics2's Mistral decoder over embeddings, with the key/value cache as inputs and outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.models.idefics2.modeling_idefics2 import Idefics2ForConditionalGeneration

from ..head import rows_at
from ..joined_attention import attended
from ..operators import CachedAttention, DecoderCall, Operators
from ..residual import Residual


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
        residual, presents = Residual(self.operators, inputs_embeds), []
        for layer, cache in zip(self.text_model.layers, past, strict=True):
            added, *present = attended(layer.self_attn, residual.rms_norm(layer.input_layernorm), attend, cache)
            residual.add(added)
            residual.add(layer.mlp(residual.rms_norm(layer.post_attention_layernorm)))
            presents += present
        norm = self.text_model.norm
        wanted = self.operators.rms_norm(rows_at(residual.sum, logit_positions), norm.weight, norm.variance_epsilon)
        return (self.lm_head(wanted).to(torch.float32), *presents)
