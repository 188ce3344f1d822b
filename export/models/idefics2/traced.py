"""Idefics2's graphs as modules, and what they are traced with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers import Idefics2Config
from transformers.models.mistral.modeling_mistral import MistralRotaryEmbedding

from ....graphs.contract import GraphName, ModelSizes
from ....graphs.head import Head
from ....graphs.idefics2.decoder import Decoder
from ....graphs.idefics2.embedding import Embedding
from ....graphs.idefics2.positions import position_table
from ....graphs.idefics2.vision import Projection, Vision
from ....graphs.joined_attention import JoinedAttention
from ....graphs.operators import Operators


def tables_of(config: Idefics2Config, sizes: ModelSizes) -> dict[str, Tensor]:
    """The rotary tables [max_positions, head_dim / 2] float32, by the reference's own module, and the positions of patches."""
    positions = torch.arange(sizes.max_positions)[None]
    cos, sin = MistralRotaryEmbedding(config.text_config)(torch.zeros((), dtype=torch.float32), positions)
    half = cos.shape[-1] // 2  # the reference stores each angle twice
    patches = torch.from_numpy(position_table(sizes.positions_per_side, sizes.max_patches))
    return {"cos": cos[0, :, :half].contiguous(), "sin": sin[0, :, :half].contiguous(), "positions": patches}


def graphs(model: Any, sizes: ModelSizes, operators: Operators, dtype: torch.dtype, joins: bool) -> dict[GraphName, nn.Module]:
    model.model.connector.modality_projection = Projection(model.model.connector.modality_projection)
    model.lm_head = Head(model.lm_head)
    if joins:
        for layer in model.model.text_model.layers:
            layer.self_attn = JoinedAttention(layer.self_attn)
    cos, sin = (torch.empty(sizes.max_positions, sizes.head_dim // 2, dtype=dtype) for _ in ("cos", "sin"))
    return {
        "vision": Vision(model.model, operators, sizes.max_patches),
        "embedding": Embedding(model.model),
        "decoder": Decoder(model, operators, cos, sin),
    }


def example(graph: GraphName, sizes: ModelSizes, dtype: torch.dtype) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Inputs of a graph, and which of their axes vary."""
    auto = Dim.DYNAMIC
    batch, seq, past = 2, 3, 5
    two = {0: auto, 1: auto}
    if graph == "vision":
        side = 2 * sizes.patch_size
        # NumPy has no bfloat16, so pixels stay float32 there.
        pixels = torch.zeros(2, 3, side, side + sizes.patch_size, dtype=torch.float32 if dtype == torch.bfloat16 else dtype)
        return (pixels,), ({0: auto, 2: auto, 3: auto},)
    if graph == "embedding":
        ids = torch.zeros(batch, seq, dtype=torch.int64)
        return (ids, torch.zeros(4, sizes.hidden_size, dtype=dtype), ids.clone()), (two, {0: auto}, two)
    cache = [
        tuple(torch.zeros(batch, sizes.num_key_value_heads, past, sizes.head_dim, dtype=dtype) for _ in "kv")
        for _ in range(sizes.num_layers)
    ]
    inputs = (
        torch.zeros(batch, seq, sizes.hidden_size, dtype=dtype),
        torch.ones(batch, seq + past, dtype=torch.int64),
        torch.zeros(batch, 2, dtype=torch.int64),
        cache,
    )
    return inputs, (two, two, two, [({0: auto, 2: auto},) * 2] * sizes.num_layers)
