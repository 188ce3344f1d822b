"""vision.onnx: IDEFICS' CLIP encoder and, where the model has one, its perceiver, for images of the one size it knows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.idefics.modeling_idefics import IdeficsModel

from ..operators import Operators


class Vision(nn.Module):
    """pixel_values [num_images, 3, side, side] → image_features [num_images, image_seq_len, vision width].

    The encoder's last norm is not there: the reference applies it to what it pools, which nothing reads.
    """

    def __init__(self, model: IdeficsModel, operators: Operators) -> None:
        super().__init__()
        self.vision_model, self.operators = model.vision_model, operators
        self.perceiver_resampler = model.perceiver_resampler if model.config.use_resampler else None

    def forward(self, pixel_values: Tensor) -> Tensor:
        encoder = self.vision_model
        embeddings = encoder.embeddings
        pixels = pixel_values.to(embeddings.patch_embedding.weight.dtype)
        patches = embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        whole = embeddings.class_embedding[None, None].expand(patches.shape[0], 1, -1)
        x = encoder.pre_layrnorm(torch.cat([whole, patches], 1) + embeddings.position_embedding.weight)
        for layer in encoder.encoder.layers:
            x = self._encode(layer, x)
        return x if self.perceiver_resampler is None else self._resample(self.perceiver_resampler, x)

    def _encode(self, layer: Any, x: Tensor) -> Tensor:
        attention, h = layer.self_attn, layer.layer_norm1(x)
        q, k, v = attention.q_proj(h), attention.k_proj(h), attention.v_proj(h)
        x = x + attention.out_proj(self.operators.attention(q, k, v, attention.num_heads, attention.num_heads, attention.scale))
        return x + layer.mlp(layer.layer_norm2(x))

    def _resample(self, resampler: Any, context: Tensor) -> Tensor:
        latents = resampler.latents[None].expand(context.shape[0], -1, -1)
        for attention, mlp in resampler.blocks:
            heads, h = attention.n_heads, attention.latents_layer_norm(latents)
            both = torch.cat([attention.context_layer_norm(context), h], 1)
            q, k, v = attention.q_proj(h), attention.k_proj(both), attention.v_proj(both)
            if attention.qk_layer_norms:
                q = attention.q_layer_norm(q.unflatten(-1, (heads, -1))).flatten(2)
                k = attention.k_layer_norm(k.unflatten(-1, (heads, -1))).flatten(2)
            latents = latents + attention.output_proj(self.operators.attention(q, k, v, heads, heads, attention.qk_scale))
            latents = latents + mlp(latents)
        return resampler.layer_norm(latents)
