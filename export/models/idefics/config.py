"""What of an IDEFICS config the four graphs can express, and the sizes they need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, IdeficsConfig

from ....graphs.contract import ModelSizes
from ....runtime.image_tokens import IMAGE
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

_TEXT_WIDTHS = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")
_VISION_WIDTHS = ("embed_dim", "intermediate_size", "num_attention_heads", "image_size", "patch_size")
_PERCEIVER_WIDTHS = ("resampler_n_latents", "resampler_n_heads", "resampler_head_dim")
_IGNORED = (
    "vision_embed_dim", "vision_image_size", "vision_patch_size", "vision_intermediate_size", "vision_num_hidden_layers",
    "vision_num_attention_heads", "resampler_n_latents", "resampler_depth", "resampler_n_heads", "resampler_head_dim",
    "qk_layer_norms_perceiver",
)  # fmt: skip
"""Keys that once stood beside those of the text model; the reference reads them in vision_config and perceiver_config alone."""


def load(raw: dict[str, Any], folder: Path, source: str, tensors: int) -> IdeficsConfig:
    """A parsed config.json, with the tokenizer's id of an image; CheckpointError names what no graph can express."""
    parts = {key: raw.get(f"{key}_config") or {} for key in ("vision", "perceiver")}
    for key, part in parts.items():
        if not isinstance(part, dict):
            raise CheckpointError(f"{source}'s config.json has the {key}_config {part!r:.60}. Give it an object.")
    for part in (raw, *parts.values()):
        if quantisation := part.get("quantization_config"):
            method = quantisation.get("quant_method", "unknown") if isinstance(quantisation, dict) else quantisation
            raise CheckpointError(f"{source} is quantised ({method}). Export the unquantised checkpoint.")
    try:
        config = IdeficsConfig.from_dict(raw)
    except Exception as error:  # transformers' validation raises several kinds; all mean the same here
        raise CheckpointError(f"{source}'s config.json is not a valid IDEFICS config: {reason(error)}") from error
    _check_ignored(raw, config, source)
    _check(config, source, tensors)
    config.image_token_id = _image_token(folder, source, config.vocab_size + config.additional_vocab_size)
    return config


def _check_ignored(raw: dict[str, Any], config: IdeficsConfig, source: str) -> None:
    """Raise CheckpointError where an old key says another number than the one that counts."""
    for key in (key for key in _IGNORED if key in raw):
        part, inner = "vision" if key.startswith("vision_") else "perceiver", key.removeprefix("vision_")
        taken = getattr(getattr(config, f"{part}_config"), inner)
        if raw[key] != taken and (part == "vision" or config.use_resampler):
            raise CheckpointError(
                f"{source}'s config.json has the {key} {raw[key]!r:.40} outside of {part}_config, where transformers does not "
                f"read it and takes {taken}. Move it there, as {inner}."
            )


def _check(config: IdeficsConfig, source: str, tensors: int) -> None:
    """Raise CheckpointError for what no graph can express, and for sizes that no checkpoint of so many `tensors` has."""
    vision, perceiver = config.vision_config, config.perceiver_config
    check_rope(config.rope_parameters["rope_type"], source)
    for part, act in (("text", config.hidden_act), ("vision", vision.hidden_act)):
        check_activation(part, act, source)
    check_vision(vision, source)
    if config.alpha_type not in ("float", "vector"):
        raise CheckpointError(f"{source} has gates of the alpha_type {config.alpha_type!r:.60}. Only float and vector are known.")
    resampler = (
        *(("perceiver", name, getattr(perceiver, name), 1, MAX_WIDTH) for name in _PERCEIVER_WIDTHS),
        ("perceiver", "resampler_depth", perceiver.resampler_depth, 1, tensors),
    )
    check_sizes(
        (
            *(("text", name, getattr(config, name), 1, MAX_WIDTH) for name in _TEXT_WIDTHS),
            ("text", "additional_vocab_size", config.additional_vocab_size, 0, MAX_WIDTH),
            *(("vision", name, getattr(vision, name), 1, MAX_WIDTH) for name in _VISION_WIDTHS),
            ("text", "num_hidden_layers", config.num_hidden_layers, 1, tensors),
            ("text", "cross_layer_interval", config.cross_layer_interval, 1, tensors),
            ("vision", "num_hidden_layers", vision.num_hidden_layers, 1, tensors),
            *(resampler if config.use_resampler else ()),
            ("text", "max_position_embeddings", config.max_position_embeddings, 1, MAX_POSITIONS),
            ("text", "rope_theta", config.rope_parameters["rope_theta"], 1, MAX_THETA),
        ),
        source,
        tensors,
    )
    check_divides(
        (
            ("text width by heads", config.hidden_size, config.num_attention_heads),
            ("text head_dim by 2", config.hidden_size // config.num_attention_heads, 2),
            ("text layers by cross_layer_interval", config.num_hidden_layers, config.cross_layer_interval),
            ("vision width by heads", vision.embed_dim, vision.num_attention_heads),
        ),
        source,
    )


def _image_token(folder: Path, source: str, vocab_size: int) -> int:
    """The id of an image's token, which the config does not have."""
    if not any((folder / file).exists() for file in ("tokenizer.json", "tokenizer.model")):
        raise CheckpointError(f"{source} has no tokenizer.json. Copy it from the model it was tuned from.")
    try:
        found = AutoTokenizer.from_pretrained(folder).get_vocab().get(IMAGE)
    except Exception as error:  # whatever the conversion of a tokenizer raises, it is the checkpoint's
        raise CheckpointError(f"{source}'s tokenizer cannot be read: {reason(error)}") from error
    if found is None or found >= vocab_size:
        where = "does not have" if found is None else f"has at {found}"
        raise CheckpointError(
            f"{source}'s tokenizer {where} {IMAGE}, and its model knows {vocab_size} tokens. "
            "Use the tokenizer and the config of one model."
        )
    return int(found)


def sizes(config: IdeficsConfig, num_parameters: int) -> ModelSizes:
    """What a host needs to know."""
    vision = config.vision_config
    side = vision.image_size // vision.patch_size
    return ModelSizes(
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size + config.additional_vocab_size,
        num_layers=config.num_hidden_layers,
        num_key_value_heads=config.num_attention_heads,
        head_dim=config.hidden_size // config.num_attention_heads,
        max_positions=config.max_position_embeddings,
        sliding_window=None,
        num_cross_layers=config.num_hidden_layers // config.cross_layer_interval,
        image_token_id=config.image_token_id,
        tokens_per_image=1,
        image_seq_len=config.perceiver_config.resampler_n_latents if config.use_resampler else side * side + 1,
        vision_width=vision.embed_dim,
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        positions_per_side=side,
        num_parameters=num_parameters,
    )


def fit_vocabulary(config: IdeficsConfig, rows: int, source: str) -> None:
    """The additional tokens come right after the table's: none can be added between."""
    if rows != config.vocab_size:
        raise CheckpointError(
            f"{source} has {rows} rows in its tables, where the model has {config.vocab_size} and "
            f"{config.additional_vocab_size} additional ones after them. Merge the adapter with peft first."
        )
