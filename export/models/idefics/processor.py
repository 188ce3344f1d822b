"""The files beside IDEFICS' weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import IdeficsConfig
from transformers.models.idefics.image_processing_pil_idefics import IdeficsImageProcessorPil

from ....runtime.image_tokens import END_OF_UTTERANCE, FAKE_IMAGE, IMAGE
from ...errors import CheckpointError
from ..json_file import json_object

TOKENS: tuple[str, ...] = ()
"""Its tokens stand in every checkpoint's tokenizer; the one that lacks <end_of_utterance> is the base model's, which has none."""
_ITEMS = (
    "{% for line in message['content'] %}"
    "{% if line['type'] == 'text' %}{{ line['text'] }}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}"
    "{% endfor %}"
)
TURNS = (
    "{% for message in messages %}{{ message['role'].capitalize() }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    f"{_ITEMS}<end_of_utterance>\n{{% endfor %}}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""The turns that the card of the instruct models shows; no checkpoint has them as a template."""
TEXT = f"{{% for message in messages %}}{_ITEMS}{{% endfor %}}"
"""One text that goes on: a base model was tuned on no turns."""


def check(folder: Path, source: str, config: IdeficsConfig) -> None:
    """Raises CheckpointError where images get another size than the model takes, and transformers' own errors."""
    processor = json_object(folder / "processor_config.json")
    if "image_processor" not in processor and not (folder / "preprocessor_config.json").exists():
        raise CheckpointError(f"{source} has no preprocessor_config.json. Copy it from the model it was tuned from.")
    size, side = IdeficsImageProcessorPil.from_pretrained(folder).size, config.vision_config.image_size
    if (size.height, size.width) != (side, side):
        raise CheckpointError(
            f"{source}'s processor makes images of {size.height} × {size.width} pixels, but its model takes {side} × {side}. "
            "Set image_size in preprocessor_config.json to the model's."
        )


def adapted(raw: dict[str, Any], config: IdeficsConfig) -> dict[str, Any]:
    """Tables that are no longer one."""
    return raw | {"tie_word_embeddings": config.tie_word_embeddings}


def complete(folder: Path, tokenizer: Tokenizer, config: IdeficsConfig) -> None:
    """What the cards of the models tell users to pass by hand: which tokens end an answer and which never stand in one; and the
    turns of a conversation, or one text where the model was tuned on none, unless the folder has a template of its own.
    """
    end = tokenizer.token_to_id(END_OF_UTTERANCE)
    known = end is not None and end < config.vocab_size + config.additional_vocab_size
    path = folder / "generation_config.json"
    options = json_object(path)
    eos = options.get("eos_token_id", config.eos_token_id)
    ends = [*(eos if isinstance(eos, list) else [] if eos is None else [eos]), *([end] if known else [])]
    bad = options.get("bad_words_ids") or []
    bad += [[token] for name in (IMAGE, FAKE_IMAGE) if (token := tokenizer.token_to_id(name)) is not None and [token] not in bad]
    options |= {"eos_token_id": list(dict.fromkeys(ends)), "bad_words_ids": bad}
    path.write_text(json.dumps(options, indent=2) + "\n", encoding="utf-8")
    if not _has_template(folder):
        template = {"chat_template": TURNS if known else TEXT}
        (folder / "chat_template.json").write_text(json.dumps(template, indent=2) + "\n", encoding="utf-8")


def _has_template(folder: Path) -> bool:
    beside = any((folder / name).is_file() for name in ("chat_template.json", "chat_template.jinja"))
    return beside or any(
        json_object(folder / name).get("chat_template") for name in ("processor_config.json", "tokenizer_config.json")
    )
