"""Write small IDEFICS checkpoints with random weights in the real layout, for tests and benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import IdeficsConfig, IdeficsForVisionText2Text

from ..runtime.image_tokens import END_OF_UTTERANCE, FAKE_IMAGE, IMAGE

WORDS = 259
"""Of the base vocabulary: three special tokens, and one per byte."""
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's training images."""
TINY: dict[str, Any] = {
    "vocab_size": WORDS, "additional_vocab_size": 3, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 4, "cross_layer_interval": 2, "qk_layer_norms": True, "use_resampler": True,
    "max_position_embeddings": 256,
}  # fmt: skip
TINY_VISION: dict[str, Any] = {
    "embed_dim": 48, "image_size": 28, "intermediate_size": 80, "patch_size": 7, "num_hidden_layers": 2, "num_attention_heads": 3,
}  # fmt: skip
TINY_PERCEIVER: dict[str, Any] = {
    "resampler_n_latents": 5, "resampler_depth": 2, "resampler_n_heads": 4, "resampler_head_dim": 12,
    "qk_layer_norms_perceiver": True,
}  # fmt: skip


def tiny_config(vision: dict[str, Any] | None = None, perceiver: dict[str, Any] | None = None, **text: Any) -> IdeficsConfig:
    """The whole architecture, with some sizes in the place of the usual ones."""
    return IdeficsConfig(
        **TINY | text, vision_config=TINY_VISION | (vision or {}), perceiver_config=TINY_PERCEIVER | (perceiver or {})
    )


def byte_tokenizer(added: int) -> Tokenizer:
    """One token per byte and three special ones before; after them as many as are `added` of a fake image's, an image's, and the
    end of an utterance. A model without additional tokens has the first two in the place of bytes that no text has.
    """
    basic = ["<unk>", "<s>", "</s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if not added:
        alphabet = [*(byte for byte in alphabet if byte not in _NO_TEXT), FAKE_IMAGE, IMAGE]
    vocabulary = {token: index for index, token in enumerate([*basic, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = (*basic, *(FAKE_IMAGE, IMAGE, END_OF_UTTERANCE)[: added or 2])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return tokenizer


_NO_TEXT = ("ö", "÷")
"""ByteLevel's signs for 0xF6 and 0xF7, which UTF-8 has not."""


def write_checkpoint(
    folder: Path,
    config: IdeficsConfig,
    *,
    dtype: torch.dtype = torch.float32,
    shard_size: str = "5GB",
    chat_template: str | None = None,
    seed: int = 0,
) -> None:
    """A whole checkpoint with weights drawn so that activations, logits and gates have a standard deviation near 1.

    transformers' own initialisation shuts the gates, which hides all of the images.
    """
    model = random_model(config, seed)
    model.generation_config.update(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    write_processor_files(folder, config, chat_template)


def write_processor_files(folder: Path, config: IdeficsConfig, chat_template: str | None = None) -> None:
    """Tokenizer and processor's files as the hub's checkpoints have them."""
    byte_tokenizer(config.additional_vocab_size).save(str(folder / "tokenizer.json"))
    files: dict[str, dict[str, Any]] = {
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "pad_token": "<unk>",
            "padding_side": "left",
        },
        "preprocessor_config.json": {
            "image_mean": MEAN,
            "image_num_channels": 3,
            "image_processor_type": "IdeficsImageProcessor",
            "image_size": config.vision_config.image_size,
            "image_std": STD,
            "processor_class": "IdeficsProcessor",
        },
    }
    if chat_template is not None:
        files["chat_template.json"] = {"chat_template": chat_template}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def random_model(config: IdeficsConfig, seed: int = 0) -> IdeficsForVisionText2Text:
    """A model in float32."""
    torch.manual_seed(seed)
    model = IdeficsForVisionText2Text(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "latents" in name or "embed" in name:
                parameter.normal_()
            elif "alpha_" in name:
                parameter.normal_(0.8, 0.3)
            elif parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1)
            else:
                parameter.normal_(1, 0.1)
        for parameter in model.lm_head.parameters():
            parameter.normal_(0, config.hidden_size**-0.5)
    return model
