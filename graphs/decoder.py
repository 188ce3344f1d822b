"""decoder.onnx: Idefics2's Mistral decoder over embeddings, with the key/value cache as inputs and outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.onnx.ops import symbolic
from transformers.models.idefics2.modeling_idefics2 import Idefics2ForConditionalGeneration

from .operators import CachedAttention, DecoderCall, Operators

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


class JoinedAttention(nn.Module):
    """A layer's projections, those of queries, keys and values in one product: a step of one row waits for three small ones."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        parts = attention.q_proj, attention.k_proj, attention.v_proj
        outputs = sum(part.out_features for part in parts)
        self.qkv_proj = nn.Linear(parts[0].in_features, outputs, bias=False, dtype=parts[0].weight.dtype)
        self.o_proj = attention.o_proj


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
            attention, h = layer.self_attn, self._norm(x, layer.input_layernorm)
            if isinstance(attention, JoinedAttention):
                output, *present = attend(attention.qkv_proj(h), None, None, cache)
            else:
                output, *present = attend(attention.q_proj(h), attention.k_proj(h), attention.v_proj(h), cache)
            x = x + attention.o_proj(output)
            x = x + layer.mlp(self._norm(x, layer.post_attention_layernorm))
            presents += present
        wanted = self._norm(_rows(x, logit_positions), self.text_model.norm)
        return (self.lm_head(wanted).to(torch.float32), *presents)

    def _norm(self, x: Tensor, layer: Any) -> Tensor:
        return self.operators.rms_norm(x, layer.weight, layer.variance_epsilon)


def _rows(x: Tensor, positions: Tensor) -> Tensor:
    """x [batch, seq, hidden] at positions [batch, k] → [batch, k, hidden], by no shape that only the host knows."""
    shape = (*positions.shape, x.shape[2])
    return symbolic("GatherND", (x, positions[:, :, None]), {"batch_dims": 1}, dtype=x.dtype, shape=shape, version=13)
