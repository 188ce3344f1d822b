"""IDEFICS' graphs as modules, and what they are traced with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers import IdeficsConfig
from transformers.models.idefics.modeling_idefics import IdeficsRotaryEmbedding

from ....graphs.contract import GraphName, ModelSizes
from ....graphs.head import Head
from ....graphs.idefics.cross import Cross
from ....graphs.idefics.decoder import Decoder
from ....graphs.idefics.embedding import Embedding, Table
from ....graphs.idefics.vision import Vision
from ....graphs.joined_attention import JoinedAttention
from ....graphs.operators import Operators


def tables_of(config: IdeficsConfig, sizes: ModelSizes) -> dict[str, Tensor]:
    """The rotary tables [max_positions, head_dim / 2] float32, by the reference's own module."""
    positions = torch.arange(sizes.max_positions)[None]
    cos, sin = IdeficsRotaryEmbedding(config)(torch.zeros((), dtype=torch.float32), positions)
    half = cos.shape[-1] // 2  # the reference stores each angle twice
    return {"cos": cos[0, :, :half].contiguous(), "sin": sin[0, :, :half].contiguous()}


def graphs(model: Any, sizes: ModelSizes, operators: Operators, dtype: torch.dtype, joins: bool) -> dict[GraphName, nn.Module]:
    model.model.embed_tokens = Table(sizes.vocab_size, sizes.hidden_size, dtype)
    model.lm_head = Head(nn.Linear(sizes.hidden_size, sizes.vocab_size, bias=False, dtype=dtype))
    if joins:
        for layer in model.model.layers:
            layer.self_attn = JoinedAttention(layer.self_attn)
    cos, sin = (torch.empty(sizes.max_positions, sizes.head_dim // 2, dtype=dtype) for _ in ("cos", "sin"))
    return {
        "vision": Vision(model.model, operators),
        "cross": Cross(model.model, operators),
        "embedding": Embedding(model.model),
        "decoder": Decoder(model, operators, cos, sin, sizes.image_seq_len),
    }


def example(graph: GraphName, sizes: ModelSizes, dtype: torch.dtype) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Inputs of a graph, and which of their axes vary. No tensor is there twice: torch.export would take two inputs for one."""
    auto = Dim.DYNAMIC
    batch, seq, past, images = 2, 3, 5, 4
    two, cached = {0: auto, 1: auto}, {0: auto, 2: auto}
    if graph == "vision":
        side = sizes.image_size
        assert side is not None
        # NumPy has no bfloat16, so pixels stay float32 there.
        return (torch.zeros(2, 3, side, side, dtype=torch.float32 if dtype == torch.bfloat16 else dtype),), ({0: auto},)
    if graph == "cross":
        return (torch.zeros(batch, 2 * sizes.image_seq_len, sizes.vision_width, dtype=dtype),), (two,)
    if graph == "embedding":
        return (torch.zeros(batch, seq, dtype=torch.int64),), (two,)

    def keys_and_values(layers: int, length: int) -> list[tuple[Tensor, ...]]:
        shape = batch, sizes.num_key_value_heads, length, sizes.head_dim
        return [tuple(torch.zeros(shape, dtype=dtype) for _ in "kv") for _ in range(layers)]

    inputs = (
        torch.zeros(batch, seq, sizes.hidden_size, dtype=dtype),
        torch.ones(batch, seq + past, dtype=torch.int64),
        torch.zeros(batch, seq, images, dtype=torch.int64),
        torch.zeros(batch, 2, dtype=torch.int64),
        keys_and_values(sizes.num_layers, past),
        keys_and_values(sizes.num_cross_layers, images * sizes.image_seq_len),
    )
    vary = (two, two, {0: auto, 1: auto, 2: auto}, two)
    return inputs, (*vary, [(cached,) * 2] * sizes.num_layers, [(cached,) * 2] * sizes.num_cross_layers)
