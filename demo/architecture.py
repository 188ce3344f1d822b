"""The demo model's sizes."""

from __future__ import annotations

from typing import Any

from transformers import Idefics2Config

from ..runtime.image_tokens import IMAGE
from .tokenizer import demo_tokenizer

PATCH, SIDE, LATENTS = 14, 112, 16
IMAGE_OPTIONS: dict[str, Any] = {
    "do_image_splitting": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    "size": {"longest_edge": SIDE, "shortest_edge": 3 * PATCH},
}  # fmt: skip


def demo_config() -> Idefics2Config:
    """The whole architecture in 4.5 million parameters."""
    tokenizer = demo_tokenizer()
    return Idefics2Config(
        image_token_id=tokenizer.token_to_id(IMAGE),
        text_config={
            "model_type": "mistral",
            "vocab_size": tokenizer.get_vocab_size(),
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": 2048,
            "sliding_window": 512,
            "rms_norm_eps": 1e-5,
            "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "image_size": SIDE,
            "patch_size": PATCH,
        },
        perceiver_config={
            "hidden_size": 192,
            "resampler_n_latents": LATENTS,
            "resampler_depth": 2,
            "resampler_n_heads": 6,
            "resampler_head_dim": 32,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-6,
        },
    )
