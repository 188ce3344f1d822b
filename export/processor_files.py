"""The files of a checkpoint that are not weights: configs and templates as they are, the tokenizer as the reference uses it.

transformers 5 rebuilds a Llama tokenizer from tokenizer.json's vocabulary with rules of its own, so the tokenizer.json of an
older checkpoint is not what the reference tokenizes with. The folder gets the rebuilt one, which any host can use as it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer, GenerationConfig

from ..runtime.errors import readable
from ..runtime.folder import PROCESSOR_FILES
from ..runtime.image_tokens import END_OF_UTTERANCE, FAKE_IMAGE, IMAGE, SPECIAL_TOKENS
from .errors import CheckpointError, reason
from .models.json_file import json_object
from .models.known import family_of
from .source.checkpoint import Checkpoint

_WRITTEN = ("tokenizer.json", "tokenizer_config.json")


def write_processor_files(checkpoint: Checkpoint, config: Any, folder: Path) -> None:
    """Copy the checkpoint's configs and write its tokenizer into `folder`, and what hosts need that it lacks.

    CheckpointError names the file that is missing, or that the reference cannot read.
    """
    source, name, family = checkpoint.folder, checkpoint.source, family_of(config)
    try:
        family.check_processor(source, name, config)
        if (source / "generation_config.json").is_file():
            GenerationConfig.from_pretrained(source)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a config's validation raises, it is the checkpoint's
        raise CheckpointError(f"transformers cannot read {name}'s processor or generation config: {reason(error)}") from error
    for copied in (name for name in PROCESSOR_FILES if name not in _WRITTEN):
        if (source / copied).is_file():
            with readable(CheckpointError):
                content = (source / copied).read_bytes()
            (folder / copied).write_bytes(content)
    family.complete(folder, _write_tokenizer(checkpoint, config, folder), config)


def _write_tokenizer(checkpoint: Checkpoint, config: Any, folder: Path) -> Tokenizer:
    if not any((checkpoint.folder / file).exists() for file in ("tokenizer.json", "tokenizer.model")):
        raise CheckpointError(f"{checkpoint.source} has no tokenizer.json. Copy it from the model it was tuned from.")
    try:
        wrapper = AutoTokenizer.from_pretrained(checkpoint.folder)
    except Exception as error:  # whatever the conversion of a tokenizer raises, it is the checkpoint's
        raise CheckpointError(f"{checkpoint.source}'s tokenizer cannot be read: {reason(error)}") from error
    tokenizer: Tokenizer = wrapper.backend_tokenizer
    tokenizer.no_padding()
    tokenizer.no_truncation()
    family = family_of(config)
    vocab_size = family.sizes(config, 0).vocab_size
    for token in (FAKE_IMAGE, IMAGE, END_OF_UTTERANCE):
        room = token in family.tokens and tokenizer.get_vocab_size() < vocab_size
        if tokenizer.token_to_id(token) is not None or room:
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
    options = json_object(checkpoint.folder / "tokenizer_config.json") | resolved
    (folder / "tokenizer_config.json").write_text(json.dumps(options, indent=2) + "\n", encoding="utf-8")
    return tokenizer
