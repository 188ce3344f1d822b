"""Small random IDEFICS configs that differ in everything the architecture's config can vary."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from idefics2_onnx.demo.random_idefics import tiny_config
from transformers import IdeficsConfig


@dataclass(frozen=True)
class SmallIdefics:
    """One config and how its checkpoint is stored."""

    text: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] = field(default_factory=dict)
    perceiver: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    shard_size: str = "5GB"
    flavours: tuple[str, ...] = ("fused", "standard")

    @property
    def config(self) -> IdeficsConfig:
        return tiny_config(self.vision, self.perceiver, **self.text)


SMALL_IDEFICS = {
    "idefics": SmallIdefics(  # as the 9b instruct model, small
        text={"num_hidden_layers": 2}, vision={"num_hidden_layers": 1}, perceiver={"resampler_depth": 1}
    ),
    "idefics_base": SmallIdefics(  # no resampler, a gated layer before every layer, no norms of heads, two additional tokens
        text={"use_resampler": False, "cross_layer_interval": 1, "qk_layer_norms": False, "additional_vocab_size": 2, "num_hidden_layers": 2},
        vision={"num_hidden_layers": 1},
        dtype=torch.bfloat16,
    ),
    "idefics_odd": SmallIdefics(  # head_dim 24: the fused operator cannot; gates of vectors, tied, one vocabulary, another epsilon
        text={
            "hidden_size": 72, "num_attention_heads": 3, "alpha_type": "vector", "tie_word_embeddings": True, "rms_norm_eps": 1e-5,
            "additional_vocab_size": 0, "hidden_act": "gelu", "num_hidden_layers": 1, "cross_layer_interval": 1,
        },
        vision={"num_hidden_layers": 1},
        perceiver={"resampler_depth": 1, "qk_layer_norms_perceiver": False, "resampler_n_latents": 3},
        flavours=("standard",),
    ),
    "idefics_deep": SmallIdefics(),  # the same with two of everything
    "idefics_four": SmallIdefics(  # every fourth layer, tied with additional tokens, linear rope, sharded
        text={
            "num_hidden_layers": 8, "cross_layer_interval": 4, "tie_word_embeddings": True, "alpha_type": "vector",
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
        },
        shard_size="100KB",
    ),
    "idefics_no_perceiver": SmallIdefics(  # norms of heads without a resampler, tied, two additional tokens, wide heads
        text={
            "use_resampler": False, "hidden_size": 128, "num_hidden_layers": 2, "tie_word_embeddings": True, "additional_vocab_size": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        },
        vision={"patch_size": 14, "hidden_act": "quick_gelu"},
        dtype=torch.float16,
    ),
    "idefics_one": SmallIdefics(  # one layer each, a large table, one head that looks at images
        text={
            "num_hidden_layers": 1, "cross_layer_interval": 1, "num_attention_heads": 1, "hidden_size": 32, "vocab_size": 259,
            "alpha_type": "vector", "qk_layer_norms": False,
        },
        vision={"num_hidden_layers": 1, "num_attention_heads": 1, "embed_dim": 40},
        perceiver={"resampler_depth": 1, "resampler_n_heads": 1, "resampler_n_latents": 1, "qk_layer_norms_perceiver": False},
    ),
    "idefics_hub": SmallIdefics(  # the sizes of the hub's tiny-random-idefics
        text={
            "hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 2, "cross_layer_interval": 1,
            "alpha_type": "vector", "qk_layer_norms": False, "max_position_embeddings": 128, "additional_vocab_size": 2,
        },
        vision={"embed_dim": 32, "image_size": 30, "intermediate_size": 37, "patch_size": 2, "num_hidden_layers": 5, "num_attention_heads": 4},
        perceiver={"resampler_head_dim": 8, "resampler_n_heads": 2, "resampler_n_latents": 16, "qk_layer_norms_perceiver": False},
        flavours=("standard",),
    ),
    "idefics_plain": SmallIdefics(  # one vocabulary, a resampler but no norms of heads, every second layer of six
        text={"additional_vocab_size": 0, "num_hidden_layers": 6, "qk_layer_norms": False, "intermediate_size": 50},
        perceiver={"resampler_depth": 1},
    ),
}  # fmt: skip
