"""Write checkpoints with random weights in the real layout, and the model folder that ships with the package from one of them.

python -m idefics2_onnx.demo.random_model FOLDER     # checkpoint and model folder under FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import Idefics2Config, Idefics2ForConditionalGeneration

from ..export import export_model
from .checkpoint import CHAT_TEMPLATE, END_OF_UTTERANCE, FAKE_IMAGE, IMAGE, set_generation_config, write_processor_files


def byte_tokenizer() -> Tokenizer:
    """One token per byte, three special ones before and Idefics2's three behind: 262 in all."""
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


def demo_config() -> Idefics2Config:
    """The whole architecture in some 300 thousand parameters."""
    tokenizer = byte_tokenizer()
    return Idefics2Config(
        image_token_id=tokenizer.token_to_id(IMAGE),
        text_config={
            "model_type": "mistral",
            "vocab_size": tokenizer.get_vocab_size(),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "sliding_window": 256,
            "rms_norm_eps": 1e-5,
            "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 196,
            "patch_size": 14,
        },
        perceiver_config={
            "hidden_size": 64,
            "resampler_n_latents": 64,
            "resampler_depth": 1,
            "resampler_n_heads": 4,
            "resampler_head_dim": 16,
            "num_key_value_heads": 2,
        },
    )


def main(folder: Path) -> None:
    write_checkpoint(folder / "checkpoint", demo_config())
    export_model(folder / "checkpoint", folder / "model", "fp16")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
