"""The files of a checkpoint that are not weights: configs and templates as they are, the tokenizer as the reference uses it.

transformers 5 rebuilds a Llama tokenizer from tokenizer.json's vocabulary with rules of its own, so the tokenizer.json of an
older checkpoint is not what the reference tokenizes with. The folder gets the rebuilt one, which any host can use as it is.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer, Idefics2Config

from .checkpoint import Checkpoint, read_json
from .errors import CheckpointError

FAKE_IMAGE_TOKEN, IMAGE_TOKEN, END_OF_UTTERANCE = "<fake_token_around_image>", "<image>", "<end_of_utterance>"
_COPIED = (
    "config.json", "preprocessor_config.json", "processor_config.json", "generation_config.json", "tokenizer_config.json",
    "special_tokens_map.json", "chat_template.jinja", "chat_template.json",
)  # fmt: skip


def write_processor_files(checkpoint: Checkpoint, config: Idefics2Config, folder: Path) -> None:
    """Copy the checkpoint's configs and write its tokenizer.json into `folder`."""
    source = checkpoint.folder
    processor = read_json(source / "processor_config.json") if (source / "processor_config.json").exists() else {}
    if "image_processor" not in processor and not (source / "preprocessor_config.json").exists():
        raise CheckpointError(f"{checkpoint.source} has no preprocessor_config.json. Copy it from the model it was tuned from.")
    latents, image_seq_len = config.perceiver_config.resampler_n_latents, processor.get("image_seq_len", 64)
    if image_seq_len != latents:
        raise CheckpointError(
            f"{checkpoint.source}'s processor gives an image {image_seq_len} tokens, but its perceiver has {latents} latents. "
            "Set image_seq_len in processor_config.json to the number of latents."
        )
    for name in _COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    tokenizer = json.loads(_tokenizer(checkpoint, config).to_str())
    vocab_size = config.text_config.vocab_size
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["id"] < vocab_size]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")


def _tokenizer(checkpoint: Checkpoint, config: Idefics2Config) -> Tokenizer:
    if not any((checkpoint.folder / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        raise CheckpointError(f"{checkpoint.source} has no tokenizer.json. Copy the tokenizer from the model it was tuned from.")
    try:
        wrapper = AutoTokenizer.from_pretrained(checkpoint.folder)
    except Exception as error:  # whatever the conversion of a tokenizer raises, it is the checkpoint's
        raise CheckpointError(f"{checkpoint.source}'s tokenizer cannot be read: {error}") from error
    tokenizer: Tokenizer = wrapper.backend_tokenizer
    vocab_size = config.text_config.vocab_size
    for token in (FAKE_IMAGE_TOKEN, IMAGE_TOKEN, END_OF_UTTERANCE):
        # The reference's processor adds these where they are missing, even past the end of the embedding table; we do not.
        if tokenizer.token_to_id(token) is None and tokenizer.get_vocab_size() < vocab_size:
            tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
    image_token = tokenizer.token_to_id(IMAGE_TOKEN)
    if image_token != config.image_token_id:
        raise CheckpointError(
            f"{checkpoint.source}'s tokenizer has {IMAGE_TOKEN} at {image_token}, but config.json's image_token_id is "
            f"{config.image_token_id}. Use the tokenizer and the config of one model."
        )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
