"""vision.onnx: Idefics2's SigLIP encoder and its connector (SwiGLU projection, perceiver), for images of one size.

There is no padding mask: the host runs images of equal size together, unpadded, which gives the numbers of the reference's
padded and masked batch without its wasted patches. Positions are read from a table of integers: execution providers round the
reference's float32 arithmetic differently, and ONNX Runtime's fusions change it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.onnx.ops import symbolic
from transformers.models.idefics2.modeling_idefics2 import Idefics2Model

from ..operators import Operators

SHRINK = 2.0**-6
"""What the connector's SwiGLUs multiply their wide middle with in float16, which some images' numbers there would overflow; what
comes out is float32, and is divided by it. A power of two rounds nothing."""
PROJECTION_BLOCKS = 4
_WHOLE = 256
"""A wide block's channels are a multiple of this: any size of group divides them."""


class Projection(nn.Module):
    """The connector's SwiGLU, a block of its wide middle at a time: what a large image makes of it is the most memory of all."""

    def __init__(self, projection: Any) -> None:
        super().__init__()
        blocks = projection_blocks(projection.gate_proj.out_features)
        self.blocks = nn.ModuleList(_Block(projection, len(block)) for block in blocks)

    def forward(self, x: Tensor) -> Tensor:
        """[images, patches, vision hidden] → [images, patches, hidden], in float32 for float16."""
        parts = [fed(block, x) for block in self.blocks]
        return sum(parts[1:], parts[0])


class _Block(nn.Module):
    def __init__(self, projection: Any, width: int) -> None:
        super().__init__()
        gate, down = projection.gate_proj, projection.down_proj
        self.act_fn = projection.act_fn
        self.gate_proj = nn.Linear(gate.in_features, width, bias=False, dtype=gate.weight.dtype)
        self.up_proj = nn.Linear(gate.in_features, width, bias=False, dtype=gate.weight.dtype)
        self.down_proj = nn.Linear(width, down.out_features, bias=False, dtype=gate.weight.dtype)


def fed(mlp: Any, x: Tensor) -> Tensor:
    """What a SwiGLU of the connector, or a block of one, makes of x; in float32 for float16."""
    gate, up = mlp.act_fn(mlp.gate_proj(x)), mlp.up_proj(x)
    if x.dtype != torch.float16:
        plain: Tensor = mlp.down_proj(gate * up)
        return plain
    small: Tensor = mlp.down_proj(gate * (up * SHRINK))
    return small.float() * (1 / SHRINK)


def projection_blocks(width: int) -> list[range]:
    """The channels of each block; the last may be narrower."""
    step = -(-width // PROJECTION_BLOCKS)
    step = -(-step // _WHOLE) * _WHOLE if step > _WHOLE else step
    return [range(start, min(start + step, width)) for start in range(0, width, step)]


class Vision(nn.Module):
    """pixel_values [num_images, 3, height, width] → image_features [num_images, latents, hidden].

    In float16 the connector's norms and sums, whose parameters the exporter keeps at float32, are computed in that, and only its
    products and attention in float16: what its wide SwiGLUs make of some images overflows half precision.
    """

    def __init__(self, model: Idefics2Model, operators: Operators, max_patches: int) -> None:
        super().__init__()
        self.vision_model, self.connector, self.operators = model.vision_model, model.connector, operators
        self.side: int = model.vision_model.embeddings.num_patches_per_side
        self.positions = nn.Parameter(torch.empty(max_patches + 1, max_patches, dtype=torch.int32), requires_grad=False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        encoder = self.vision_model
        pixels = pixel_values.to(encoder.embeddings.patch_embedding.weight.dtype)
        patches = encoder.embeddings.patch_embedding(pixels)
        rows, columns = (self._buckets(patches, axis) for axis in (2, 3))
        positions = (rows[:, None] * self.side + columns).flatten()
        x = patches.flatten(2).transpose(1, 2) + encoder.embeddings.position_embedding(positions)
        for layer in encoder.encoder.layers:
            x = self._encode(layer, x)
        x = encoder.post_layernorm(x)
        return self._resample(self.connector.modality_projection(x)).to(x.dtype)

    def _buckets(self, patches: Tensor, axis: int) -> Tensor:
        """Positions along an axis of [num_images, width, rows, columns], int32: the start of the table's row for so many."""
        count = symbolic("Shape", (patches,), {"start": axis, "end": axis + 1}, dtype=torch.int64, shape=(1,), version=21)
        longest = self.positions.shape[1]
        whole = symbolic("Gather", (self.positions, count), {"axis": 0}, dtype=torch.int32, shape=(1, longest), version=13)
        zero, one = torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64)
        inputs = (whole, zero, count, one)
        return symbolic("Slice", inputs, dtype=torch.int32, shape=(1, patches.shape[axis]), version=13).squeeze(0)

    def _encode(self, layer: Any, x: Tensor) -> Tensor:
        attention, h = layer.self_attn, layer.layer_norm1(x)
        q, k, v = attention.q_proj(h), attention.k_proj(h), attention.v_proj(h)
        x = x + attention.out_proj(self.operators.attention(q, k, v, attention.num_heads, attention.num_heads, attention.scale))
        return x + layer.mlp(layer.layer_norm2(x))

    def _resample(self, context: Tensor) -> Tensor:
        resampler = self.connector.perceiver_resampler
        narrow = resampler.layers[0].self_attn.q_proj.weight.dtype
        latents = resampler.latents[None].expand(context.shape[0], -1, -1)
        for layer in resampler.layers:
            attention, h = layer.self_attn, self._norm(latents, layer.input_latents_norm).to(narrow)
            both = torch.cat([self._norm(context, layer.input_context_norm).to(narrow), h], 1)
            q, k, v = attention.q_proj(h), attention.k_proj(both), attention.v_proj(both)
            heads, kv_heads = attention.num_heads, attention.num_key_value_heads
            attended = self.operators.attention(q, k, v, heads, kv_heads, attention.scaling)
            latents = latents + attention.o_proj(attended).to(latents.dtype)
            latents = latents + fed(layer.mlp, self._norm(latents, layer.post_attention_layernorm).to(narrow))
        return self._norm(latents, resampler.norm)

    def _norm(self, x: Tensor, layer: Any) -> Tensor:
        return self.operators.rms_norm(x, layer.weight, layer.variance_epsilon)
