"""The files beside Idefics2's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import Idefics2Config
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

from ....runtime.image_tokens import END_OF_UTTERANCE, FAKE_IMAGE, IMAGE
from ...errors import CheckpointError
from ..json_file import json_object

TOKENS = (FAKE_IMAGE, IMAGE, END_OF_UTTERANCE)
"""The reference's processor makes these special, and adds those that are missing even past the end of the embedding table."""


def check(folder: Path, source: str, config: Idefics2Config) -> None:
    """Raises CheckpointError where an image has other tokens to the processor than to the model, and transformers' own errors."""
    processor = json_object(folder / "processor_config.json")
    if "image_processor" not in processor and not (folder / "preprocessor_config.json").exists():
        raise CheckpointError(f"{source} has no preprocessor_config.json. Copy it from the model it was tuned from.")
    latents, image_seq_len = config.perceiver_config.resampler_n_latents, processor.get("image_seq_len", 64)
    if image_seq_len != latents:
        raise CheckpointError(
            f"{source}'s processor gives an image {image_seq_len} tokens, but its perceiver has {latents} latents. "
            "Set image_seq_len in processor_config.json to the number of latents."
        )
    Idefics2ImageProcessorPil.from_pretrained(folder)


def adapted(raw: dict[str, Any], config: Idefics2Config) -> dict[str, Any]:
    """Tokens that were added, and tables that are no longer one."""
    text = (raw.get("text_config") or {}) | {"vocab_size": config.text_config.vocab_size}
    return raw | {"tie_word_embeddings": config.tie_word_embeddings, "text_config": text}


def complete(_: Path, __: Tokenizer, ___: Idefics2Config) -> None:
    """Its checkpoints have all."""
