"""What of an Idefics2 config the three graphs can express, and the sizes they need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Idefics2Config

from ....graphs.contract import ModelSizes
from ...errors import CheckpointError, reason
from ..bounds import (
    MAX_POSITIONS,
    MAX_THETA,
    MAX_WIDTH,
    check_activation,
    check_divides,
    check_rope,
    check_sizes,
    check_vision,
)

_TEXT_WIDTHS = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
_VISION_WIDTHS = ("hidden_size", "intermediate_size", "num_attention_heads", "image_size", "patch_size")
_PERCEIVER_WIDTHS = (
    "hidden_size", "resampler_n_latents", "resampler_n_heads", "resampler_head_dim", "num_key_value_heads",
)  # fmt: skip


def load(raw: dict[str, Any], _: Path, source: str, tensors: int) -> Idefics2Config:
    """A parsed config.json; CheckpointError names what no graph can express."""
    parts = {key: raw.get(f"{key}_config") or {} for key in ("text", "vision", "perceiver")}
    for key, part in parts.items():
        if not isinstance(part, dict):
            raise CheckpointError(f"{source}'s config.json has the {key}_config {part!r:.60}. Give it an object.")
    text_type = parts["text"].get("model_type", "mistral")
    if text_type != "mistral":
        raise CheckpointError(f"{source} has a {text_type!r:.60} text model. Only 'mistral' can be exported.")
    for part in (raw, *parts.values()):
        if quantisation := part.get("quantization_config"):
            method = quantisation.get("quant_method", "unknown") if isinstance(quantisation, dict) else quantisation
            if method != "awq" or (part is not raw and part is not parts["text"]):
                raise CheckpointError(f"{source} is quantised ({method}). Export the unquantised checkpoint, or one by AWQ.")
    try:
        config = Idefics2Config.from_dict(raw)
    except Exception as error:  # transformers' validation raises several kinds; all mean the same here
        raise CheckpointError(f"{source}'s config.json is not a valid Idefics2 config: {reason(error)}") from error
    _check(config, source, tensors)
    return config


def _check(config: Idefics2Config, source: str, tensors: int) -> None:
    """Raise CheckpointError for what no graph can express, and for sizes that no checkpoint of so many `tensors` has."""
    text, vision, perceiver = config.text_config, config.vision_config, config.perceiver_config
    check_rope(text.rope_parameters["rope_type"], source)
    for part, act in (("text", text.hidden_act), ("vision", vision.hidden_act), ("perceiver", perceiver.hidden_act)):
        check_activation(part, act, source)
    check_vision(vision, source)
    check_sizes(
        (
            *(("text", name, getattr(text, name), 1, MAX_WIDTH) for name in _TEXT_WIDTHS),
            *(("vision", name, getattr(vision, name), 1, MAX_WIDTH) for name in _VISION_WIDTHS),
            *(("perceiver", name, getattr(perceiver, name), 1, MAX_WIDTH) for name in _PERCEIVER_WIDTHS),
            ("text", "num_hidden_layers", text.num_hidden_layers, 1, tensors),
            ("vision", "num_hidden_layers", vision.num_hidden_layers, 1, tensors),
            ("perceiver", "resampler_depth", perceiver.resampler_depth, 1, tensors),
            ("text", "max_position_embeddings", text.max_position_embeddings, 1, MAX_POSITIONS),
            ("text", "sliding_window", 1 if text.sliding_window is None else text.sliding_window, 1, 1 << 31),
            ("text", "rope_theta", text.rope_parameters["rope_theta"], 1, MAX_THETA),
        ),
        source,
        tensors,
    )
    check_divides(
        (
            ("text heads by key/value heads", text.num_attention_heads, text.num_key_value_heads),
            ("perceiver heads by key/value heads", perceiver.resampler_n_heads, perceiver.num_key_value_heads),
            ("vision width by heads", vision.hidden_size, vision.num_attention_heads),
            ("text head_dim by 2", text.head_dim, 2),
        ),
        source,
    )


def sizes(config: Idefics2Config, num_parameters: int) -> ModelSizes:
    """What a host needs to know."""
    text, vision = config.text_config, config.vision_config
    return ModelSizes(
        hidden_size=text.hidden_size,
        vocab_size=text.vocab_size,
        num_layers=text.num_hidden_layers,
        num_key_value_heads=text.num_key_value_heads,
        head_dim=text.head_dim,
        max_positions=text.max_position_embeddings,
        sliding_window=text.sliding_window,
        num_cross_layers=0,
        image_token_id=config.image_token_id,
        tokens_per_image=config.perceiver_config.resampler_n_latents,
        image_seq_len=config.perceiver_config.resampler_n_latents,
        vision_width=text.hidden_size,
        image_size=None,
        patch_size=vision.patch_size,
        positions_per_side=vision.image_size // vision.patch_size,
        num_parameters=num_parameters,
    )


def fit_vocabulary(config: Idefics2Config, rows: int, _: str) -> None:
    """Tokens that were added in tuning make the table longer."""
    config.text_config.vocab_size = rows
