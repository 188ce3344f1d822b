"""Write small checkpoints with random weights in the real layout, for tests and benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import Idefics2Config, Idefics2ForConditionalGeneration

from ..runtime.image_tokens import END_OF_UTTERANCE, FAKE_IMAGE, IMAGE
from .checkpoint_files import CHAT_TEMPLATE, set_generation_config, write_processor_files


def byte_tokenizer() -> Tokenizer:
    """One token per byte, three special ones before and Idefics2's three after: 262 in all."""
    basic = ["<unk>", "<s>", "</s>"]
    vocabulary = {token: index for index, token in enumerate([*basic, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(t, normalized=False, special=True) for t in (*basic, FAKE_IMAGE, IMAGE, END_OF_UTTERANCE)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def write_checkpoint(
    folder: Path,
    config: Idefics2Config,
    *,
    image_options: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    shard_size: str = "5GB",
    chat_template: str | None = CHAT_TEMPLATE,
    seed: int = 0,
) -> None:
    """A whole checkpoint with weights drawn so that activations and logits have a standard deviation near 1.

    transformers' own initialisation makes all latents equal and logits tiny, which hides errors.
    """
    torch.manual_seed(seed)
    model = Idefics2ForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "latents" in name or "embed_tokens" in name:
                parameter.normal_()
            elif parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1)
            else:
                parameter.normal_(1, 0.1)
        model.lm_head.weight.normal_(0, config.text_config.hidden_size**-0.5)
    tokenizer = byte_tokenizer()
    set_generation_config(model, tokenizer)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    write_processor_files(folder, tokenizer, config.perceiver_config.resampler_n_latents, image_options, chat_template)
