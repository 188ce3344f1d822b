"""The files around a checkpoint's weights, in the real layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ..runtime.image_tokens import END_OF_UTTERANCE, FAKE_IMAGE, IMAGE

CHAT_TEMPLATE = (
    "{% for message in messages %}{{message['role'].capitalize()}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}"
    "{% if line['type'] == 'text' %}{{line['text']}}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""Idefics2's own."""


def set_generation_config(model: Any, tokenizer: Tokenizer) -> None:
    """End, padding and bad tokens, as Idefics2 has them; `model` is transformers'."""
    ids = {name: tokenizer.token_to_id(name) for name in (FAKE_IMAGE, IMAGE, END_OF_UTTERANCE)}
    model.generation_config.update(
        bos_token_id=1,
        eos_token_id=[2, ids[END_OF_UTTERANCE]],
        pad_token_id=0,
        bad_words_ids=[[ids[FAKE_IMAGE]], [ids[IMAGE]]],
    )


def write_processor_files(
    folder: Path,
    tokenizer: Tokenizer,
    image_seq_len: int,
    image_options: dict[str, Any] | None = None,
    chat_template: str | None = CHAT_TEMPLATE,
) -> None:
    """Tokenizer, image and prompt options, and the chat template."""
    tokenizer.save(str(folder / "tokenizer.json"))
    files: dict[str, dict[str, Any]] = {
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "pad_token": "<unk>",
            "padding_side": "left",
            "additional_special_tokens": [FAKE_IMAGE, IMAGE, END_OF_UTTERANCE],
        },
        "preprocessor_config.json": {
            "image_processor_type": "Idefics2ImageProcessor",
            "do_convert_rgb": True,
            "do_image_splitting": True,
            "do_normalize": True,
            "do_pad": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "resample": 2,
            "rescale_factor": 1 / 255,
            "size": {"longest_edge": 980, "shortest_edge": 378},
            **(image_options or {}),
        },
        "processor_config.json": {"processor_class": "Idefics2Processor", "image_seq_len": image_seq_len},
    }
    if chat_template is not None:
        files["chat_template.json"] = {"chat_template": chat_template}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
