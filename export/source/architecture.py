"""What of a checkpoint's config the three graphs can express, and the sizes they need."""

from __future__ import annotations

import math

import torch
from transformers import Idefics2Config
from transformers.activations import ACT2FN

from ...graphs.contract import AttentionFlavour, ModelSizes
from ...graphs.operators import FUSED_HEAD_MULTIPLE
from ..errors import CheckpointError, reason
from ..trace import TORCH_DTYPES, fake_mode, fake_model
from .checkpoint import Checkpoint, read_json

ROPE_TYPES = ("default", "linear", "yarn", "llama3")
"""Rope types whose angles depend on the position alone, and so fit one table."""
_MAX_WIDTH = 1 << 24
_TEXT_WIDTHS = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
_VISION_WIDTHS = ("hidden_size", "intermediate_size", "num_attention_heads", "image_size", "patch_size")
_PERCEIVER_WIDTHS = (
    "hidden_size", "resampler_n_latents", "resampler_n_heads", "resampler_head_dim", "num_key_value_heads",
)  # fmt: skip


def load_config(checkpoint: Checkpoint) -> Idefics2Config:
    """The checkpoint's config; CheckpointError names what no graph can express."""
    raw = read_json(checkpoint.folder / "config.json")
    if not isinstance(raw, dict) or "model_type" not in raw:
        raise CheckpointError(f"{checkpoint.source}'s config.json has no model_type. Give an Idefics2 checkpoint.")
    if raw["model_type"] != "idefics2":
        raise CheckpointError(f"{checkpoint.source} is a {raw['model_type']!r:.60} model. Only 'idefics2' can be exported.")
    parts = {key: raw.get(f"{key}_config") or {} for key in ("text", "vision", "perceiver")}
    for key, part in parts.items():
        if not isinstance(part, dict):
            raise CheckpointError(f"{checkpoint.source}'s config.json has the {key}_config {part!r:.60}. Give it an object.")
    text_type = parts["text"].get("model_type", "mistral")
    if text_type != "mistral":
        raise CheckpointError(f"{checkpoint.source} has a {text_type!r:.60} text model. Only 'mistral' can be exported.")
    for part in (raw, *parts.values()):
        if quantisation := part.get("quantization_config"):
            method = quantisation.get("quant_method", "unknown") if isinstance(quantisation, dict) else quantisation
            if method != "awq" or (part is not raw and part is not parts["text"]):
                raise CheckpointError(
                    f"{checkpoint.source} is quantised ({method}). Export the unquantised checkpoint, or one by AWQ."
                )
    try:
        config = Idefics2Config.from_dict(raw)
    except Exception as error:  # transformers' validation raises several kinds; all mean the same here
        raise CheckpointError(f"{checkpoint.source}'s config.json is not a valid Idefics2 config: {reason(error)}") from error
    _check(config, checkpoint.source, len(checkpoint.tensors))
    return config


def _check(config: Idefics2Config, source: str, tensors: int) -> None:
    """Raise CheckpointError for what no graph can express, and for sizes that no checkpoint of so many `tensors` has."""
    text, vision, perceiver = config.text_config, config.vision_config, config.perceiver_config
    rope = text.rope_parameters["rope_type"]
    if rope not in ROPE_TYPES:
        raise CheckpointError(
            f"{source} has the rope type {rope!r:.60}, whose angles depend on the prompt's length. "
            f"Only {', '.join(ROPE_TYPES)} can be exported."
        )
    for part, act in (("text", text.hidden_act), ("vision", vision.hidden_act), ("perceiver", perceiver.hidden_act)):
        if act not in ACT2FN:
            raise CheckpointError(f"{source}'s {part} model has the activation {act!r:.60}, which transformers does not know.")
    for key, value in (("image_size", vision.image_size), ("patch_size", vision.patch_size)):
        if not isinstance(value, int) or value < 1:
            raise CheckpointError(f"{source}'s vision model has the {key} {value}. Only one positive number can be exported.")
    if vision.image_size < vision.patch_size:
        raise CheckpointError(
            f"{source} has images of {vision.image_size} pixels, but patches of {vision.patch_size}. Check config.json."
        )
    if vision.num_channels != 3:
        raise CheckpointError(f"{source}'s vision model takes {vision.num_channels} channels. Only 3 (RGB) can be exported.")
    for part, name, size, least, most in (
        *(("text", name, getattr(text, name), 1, _MAX_WIDTH) for name in _TEXT_WIDTHS),
        *(("vision", name, getattr(vision, name), 1, _MAX_WIDTH) for name in _VISION_WIDTHS),
        *(("perceiver", name, getattr(perceiver, name), 1, _MAX_WIDTH) for name in _PERCEIVER_WIDTHS),
        ("text", "num_hidden_layers", text.num_hidden_layers, 1, tensors),
        ("vision", "num_hidden_layers", vision.num_hidden_layers, 1, tensors),
        ("perceiver", "resampler_depth", perceiver.resampler_depth, 1, tensors),
        ("text", "max_position_embeddings", text.max_position_embeddings, 1, 1 << 20),
        ("text", "sliding_window", 1 if text.sliding_window is None else text.sliding_window, 1, 1 << 31),
        ("text", "rope_theta", text.rope_parameters["rope_theta"], 1, 1 << 62),
    ):
        if not isinstance(size, int | float) or not least <= size <= most:
            why = ", the number of its tensors" if most == tensors else ""
            raise CheckpointError(
                f"{source}'s {part} config has the {name} {size!r:.40}, not from {least} to {most}{why}. Check config.json."
            )
    for name, total, by in (
        ("text heads by key/value heads", text.num_attention_heads, text.num_key_value_heads),
        ("perceiver heads by key/value heads", perceiver.resampler_n_heads, perceiver.num_key_value_heads),
        ("vision width by heads", vision.hidden_size, vision.num_attention_heads),
        ("text head_dim by 2", text.head_dim, 2),
    ):
        if by < 1 or total % by:
            raise CheckpointError(f"{source}'s config does not divide {name}: {total} by {by}. Check config.json.")


def choose_attention(config: Idefics2Config, wanted: AttentionFlavour | None) -> tuple[AttentionFlavour, str | None]:
    """The decoder's flavour, and a line for the user where it is not what one would expect."""
    head_dim = config.text_config.head_dim
    if head_dim % FUSED_HEAD_MULTIPLE == 0:
        return wanted or "fused", None
    if wanted == "fused":
        raise CheckpointError(
            f"Fused attention needs a head_dim that is a multiple of {FUSED_HEAD_MULTIPLE}, and this model's is {head_dim}. "
            "Export with --attention standard."
        )
    reason = f"head_dim {head_dim} is not a multiple of {FUSED_HEAD_MULTIPLE}"
    return "standard", None if wanted else f"Using standard attention: {reason}, which the fused operator needs."


def model_sizes(config: Idefics2Config) -> tuple[ModelSizes, dict[str, tuple[int, ...]], dict[str, str]]:
    """The sizes of a model, the shape of each of its parameters, and its tied parameters (target → source)."""
    with fake_mode():
        try:
            model = fake_model(config, "fp32")
        except Exception as error:
            raise CheckpointError(f"transformers cannot build this config: {reason(error)}. Check config.json.") from error
        tied = dict(model.all_tied_weights_keys)
        shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)}
    text, vision = config.text_config, config.vision_config
    sizes = ModelSizes(
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
        num_parameters=sum(math.prod(shape) for name, shape in shapes.items() if name not in tied),
    )
    return sizes, shapes, tied


def match_tensors(checkpoint: Checkpoint, shapes: dict[str, tuple[int, ...]], tied: dict[str, str]) -> dict[str, str]:
    """The checkpoint's name of each of the model's parameters. CheckpointError names what is missing or misshapen."""
    partners = tied | {source: target for target, source in tied.items()}
    names = {name: name if name in checkpoint.tensors else partners.get(name, name) for name in shapes}
    missing = [name for name, stored in names.items() if stored not in checkpoint.tensors]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"{checkpoint.source} lacks the tensor {missing[0]}{others}. Give a whole checkpoint.")
    for name, stored in names.items():
        found = checkpoint.tensors[stored]
        if found.shape != shapes[name]:
            raise CheckpointError(
                f"{checkpoint.source}'s tensor {stored} has shape {list(found.shape)}, but config.json makes it "
                f"{list(shapes[name])}. Use the config and the weights of one model."
            )
        if found.dtype not in (torch.float64, *TORCH_DTYPES.values()):
            raise CheckpointError(f"{checkpoint.source}'s tensor {stored} is not fp64, fp32, fp16 or bf16. Convert it first.")
    return names
