"""The files of a checkpoint that are not weights: configs and templates as they are, the tokenizer as the reference uses it.

transformers 5 rebuilds a Llama tokenizer from tokenizer.json's vocabulary with rules of its own, so the tokenizer.json of an
older checkpoint is not what the reference tokenizes with. The folder gets the rebuilt one, which any host can use as it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer, GenerationConfig, Idefics2Config
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

from ..runtime.errors import readable
from ..runtime.folder import PROCESSOR_FILES
from ..runtime.image_tokens import END_OF_UTTERANCE, FAKE_IMAGE, IMAGE, SPECIAL_TOKENS
from .errors import CheckpointError, reason
from .source.checkpoint import Checkpoint, read_json

_WRITTEN = ("tokenizer.json", "tokenizer_config.json")


def write_processor_files(checkpoint: Checkpoint, config: Idefics2Config, folder: Path) -> None:
    """Copy the checkpoint's configs and write its tokenizer into `folder`.

    CheckpointError names the file that is missing, or that the reference cannot read.
    """
    source, name = checkpoint.folder, checkpoint.source
    processor = _object(source / "processor_config.json")
    if "image_processor" not in processor and not (source / "preprocessor_config.json").exists():
        raise CheckpointError(f"{name} has no preprocessor_config.json. Copy it from the model it was tuned from.")
    latents, image_seq_len = config.perceiver_config.resampler_n_latents, processor.get("image_seq_len", 64)
    if image_seq_len != latents:
        raise CheckpointError(
            f"{name}'s processor gives an image {image_seq_len} tokens, but its perceiver has {latents} latents. "
            "Set image_seq_len in processor_config.json to the number of latents."
        )
    for copied in (name for name in PROCESSOR_FILES if name not in _WRITTEN):
        if (source / copied).is_file():
            with readable(CheckpointError):
                content = (source / copied).read_bytes()
            (folder / copied).write_bytes(content)
    try:
        Idefics2ImageProcessorPil.from_pretrained(source)
        if (source / "generation_config.json").is_file():
            GenerationConfig.from_pretrained(source)
    except Exception as error:  # whatever a config's validation raises, it is the checkpoint's
        raise CheckpointError(f"transformers cannot read {name}'s processor or generation config: {reason(error)}") from error
    _write_tokenizer(checkpoint, config, folder)


def _write_tokenizer(checkpoint: Checkpoint, config: Idefics2Config, folder: Path) -> None:
    if not any((checkpoint.folder / file).exists() for file in ("tokenizer.json", "tokenizer.model")):
        raise CheckpointError(f"{checkpoint.source} has no tokenizer.json. Copy it from the model it was tuned from.")
    try:
        wrapper = AutoTokenizer.from_pretrained(checkpoint.folder)
    except Exception as error:  # whatever the conversion of a tokenizer raises, it is the checkpoint's
        raise CheckpointError(f"{checkpoint.source}'s tokenizer cannot be read: {reason(error)}") from error
    tokenizer: Tokenizer = wrapper.backend_tokenizer
    tokenizer.no_padding()
    tokenizer.no_truncation()
    vocab_size = config.text_config.vocab_size
    for token in (FAKE_IMAGE, IMAGE, END_OF_UTTERANCE):
        # The reference's processor makes these special, and adds those that are missing even past the end of the embedding
        # table; we do not.
        if tokenizer.token_to_id(token) is not None or tokenizer.get_vocab_size() < vocab_size:
            tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
    image_token = tokenizer.token_to_id(IMAGE)
    if image_token != config.image_token_id:
        raise CheckpointError(
            f"{checkpoint.source}'s tokenizer has {IMAGE} at {image_token}, but config.json's image_token_id is "
            f"{config.image_token_id}. Use the tokenizer and the config of one model."
        )
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < vocab_size]
    for token in content["added_tokens"]:
        # A token that was special once and ordinary later is written as ordinary, but still left out of texts.
        whole, text = (tokenizer.decode([token["id"]], skip_special_tokens=skip) for skip in (False, True))
        token["special"] = token["special"] or whole != text
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    # What the reference takes from defaults and older files is written down, so that no other host has to know them.
    resolved = {name: str(value) for name in SPECIAL_TOKENS if (value := getattr(wrapper, name, None)) is not None}
    resolved |= {"padding_side": wrapper.padding_side, "truncation_side": wrapper.truncation_side}
    options = _object(checkpoint.folder / "tokenizer_config.json") | resolved
    (folder / "tokenizer_config.json").write_text(json.dumps(options, indent=2) + "\n", encoding="utf-8")


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no such file."""
    content = read_json(path) if path.exists() else {}
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object. Download it again.")
    return content
