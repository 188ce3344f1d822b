"""decoder.onnx: IDEFICS' LLaMA decoder with gated layers that look at images, over embeddings and a key/value cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.idefics.modeling_idefics import IdeficsForVisionText2Text

from ..head import rows_at
from ..joined_attention import attended
from ..operators import CachedAttention, DecoderCall, Operators
from ..residual import Residual
from .head_norm import head_norm

UNSEEN = -1e4
"""Added to scores of image rows that a token does not see: exp of it is 0 in every type, and fp16 holds its sums."""


class Decoder(nn.Module):
    """inputs_embeds, attention_mask, image_attention_mask, logit_positions, the cache, and the gated layers' keys and values →
    logits float32 and the cache with the new tokens.

    image_attention_mask int64 [batch, seq, num_images] says which images a new token sees. The reference's lm_head is a `Head`
    with the base words and the additional ones after them. `cos` and `sin` are the rotary tables [max_positions, head_dim / 2],
    parameters here so that the exporter finds them under their names like any other weight.
    """

    def __init__(
        self, reference: IdeficsForVisionText2Text, operators: Operators, cos: Tensor, sin: Tensor, image_seq_len: int
    ) -> None:
        super().__init__()
        model = reference.model
        self.layers, self.gated_cross_attn_layers, self.norm = model.layers, model.gated_cross_attn_layers, model.norm
        self.lm_head, self.operators, self.image_seq_len = reference.lm_head, operators, image_seq_len
        self.cos, self.sin = nn.Parameter(cos, requires_grad=False), nn.Parameter(sin, requires_grad=False)
        config = model.config
        self.interval, heads = config.cross_layer_interval, config.num_attention_heads
        self.sizes = CachedAttention(heads, heads, config.hidden_size // heads, None)

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        image_attention_mask: Tensor,
        logit_positions: Tensor,
        past: list[tuple[Tensor, Tensor]],
        cross: list[tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, ...]:
        call = DecoderCall(attention_mask, inputs_embeds.shape[1], past[0][0], self.cos, self.sin)
        attend = self.operators.cached_attention(self.sizes, call)
        sees = image_attention_mask.sum(-1, keepdim=True) > 0
        bias = torch.where(image_attention_mask > 0, 0.0, UNSEEN).to(inputs_embeds.dtype)
        bias = bias.repeat_interleave(self.image_seq_len, -1)[:, None]
        residual, presents = Residual(self.operators, inputs_embeds), []
        for index, (layer, cache) in enumerate(zip(self.layers, past, strict=True)):
            if index % self.interval == 0:
                number = index // self.interval
                self._look(self.gated_cross_attn_layers[number], residual, cross[number], bias, sees)
            added, *present = attended(layer.self_attn, residual.rms_norm(layer.input_layernorm), attend, cache)
            residual.add(added)
            residual.add(layer.mlp(residual.rms_norm(layer.post_attention_layernorm)))
            presents += present
        wanted = self.operators.rms_norm(rows_at(residual.sum, logit_positions), self.norm.weight, self.norm.variance_epsilon)
        return (self.lm_head(wanted).to(torch.float32), *presents)

    def _look(self, layer: Any, residual: Residual, cross: tuple[Tensor, Tensor], bias: Tensor, sees: Tensor) -> None:
        """A gated layer: its attention to the images that a token sees, and its MLP, which every token goes through."""
        attention, heads = layer.cross_attn, self.sizes.num_heads
        q = attention.q_proj(residual.rms_norm(layer.input_layernorm))
        if attention.qk_layer_norms:
            q = head_norm(self.operators, q, heads, attention.q_layer_norm)
        looked = self.operators.seen_attention(q, *cross, bias, heads, self.sizes.head_dim**-0.5)
        looked = torch.where(sees, attention.o_proj(looked), torch.zeros((), dtype=looked.dtype))
        residual.add(layer.alpha_cross_attn.tanh() * looked)
        residual.add(layer.alpha_dense.tanh() * layer.mlp(residual.rms_norm(layer.post_attention_layernorm)))
