"""Small random Idefics2 configs that differ in everything the architecture's config can vary."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from idefics2_onnx.demo.random_model import byte_tokenizer
from transformers import Idefics2Config

_TEXT = {
    "model_type": "mistral",
    "vocab_size": 262,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "sliding_window": None,
    "rms_norm_eps": 1e-5,
    "pad_token_id": 0,
}
_VISION = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "image_size": 98,
    "patch_size": 14,
}
_PERCEIVER = {
    "resampler_n_latents": 4,
    "resampler_depth": 1,
    "resampler_n_heads": 4,
    "resampler_head_dim": 12,
    "num_key_value_heads": 2,
}


@dataclass(frozen=True)
class SmallModel:
    """One config and how its checkpoint is stored."""

    text: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] = field(default_factory=dict)
    perceiver: dict[str, Any] = field(default_factory=dict)
    tied: bool = False
    dtype: torch.dtype = torch.float32
    shard_size: str = "5GB"
    edges: tuple[int, int] = (28, 84)
    """Shortest and longest edge of a tile."""

    @property
    def config(self) -> Idefics2Config:
        text = _TEXT | self.text
        perceiver = {"hidden_size": text["hidden_size"], "rms_norm_eps": 1e-6} | _PERCEIVER | self.perceiver
        return Idefics2Config(
            image_token_id=byte_tokenizer().token_to_id("<image>"),
            tie_word_embeddings=self.tied,
            text_config=text,
            vision_config=_VISION | self.vision,
            perceiver_config=perceiver,
        )

    @property
    def image_options(self) -> dict[str, Any]:
        return {"size": {"shortest_edge": self.edges[0], "longest_edge": self.edges[1]}}


SMALL_MODELS = {
    "plain": SmallModel(),
    "window": SmallModel(  # a window shorter than an image's tokens, linear rope, tied, patch 7
        text={
            "sliding_window": 7,
            "hidden_size": 128,
            "num_attention_heads": 8,
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
            "vocab_size": 300,
        },
        vision={"patch_size": 7, "image_size": 70, "hidden_act": "gelu", "num_hidden_layers": 2},
        perceiver={"resampler_n_latents": 9},
        tied=True,
        edges=(21, 56),
    ),
    "wide_heads": SmallModel(  # explicit head_dim, one key/value head, yarn, sharded
        text={
            "hidden_size": 48,
            "head_dim": 32,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "hidden_act": "gelu",
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "rope_theta": 10000.0,
                "original_max_position_embeddings": 128,
            },
        },
        perceiver={"resampler_depth": 2, "resampler_n_latents": 5, "rms_norm_eps": 1e-5, "num_key_value_heads": 4},
        shard_size="100KB",
    ),
    "odd_heads": SmallModel(  # head_dim 24: the fused operator cannot; llama3 rope, no grouped heads, patch 16
        text={
            "hidden_size": 72,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "sliding_window": 20,
            "rope_parameters": {
                "rope_type": "llama3",
                "factor": 8.0,
                "rope_theta": 500000.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
        vision={"patch_size": 16, "image_size": 96, "num_attention_heads": 6},
        perceiver={"num_key_value_heads": 1},
        edges=(32, 80),
    ),
    "bf16_checkpoint": SmallModel(  # other activations, a layer between the first and the last, one vision head, a width that 4 does not divide
        text={"num_hidden_layers": 3, "hidden_act": "relu", "rms_norm_eps": 1e-4, "intermediate_size": 50},
        vision={"num_attention_heads": 1, "hidden_size": 40, "hidden_act": "relu"},
        perceiver={"resampler_n_heads": 6, "resampler_head_dim": 8, "num_key_value_heads": 3, "resampler_n_latents": 16},
        tied=True,
        dtype=torch.bfloat16,
    ),
    "fp16_checkpoint": SmallModel(  # one layer each, a large vocabulary, a small position table, a larger theta
        text={
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "head_dim": 64,
            "vocab_size": 1000,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
            "sliding_window": 64,
        },
        vision={"hidden_act": "quick_gelu", "image_size": 42, "num_hidden_layers": 2, "layer_norm_eps": 1e-5},
        perceiver={"hidden_act": "gelu"},
        dtype=torch.float16,
        edges=(42, 98),
    ),
}
SMALL_MODELS["window_in_bf16"] = replace(SMALL_MODELS["window"], dtype=torch.bfloat16)  # which is traced as "window" is
