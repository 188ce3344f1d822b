"""Options of the reference's processor that are none of the image processor's: those that change nothing are taken."""

from __future__ import annotations

from typing import Any

from ..errors import PromptError

_GROUPS = ("text_kwargs", "images_kwargs", "common_kwargs", "processor_kwargs", "videos_kwargs", "audio_kwargs")
_TOKENIZER: dict[str, tuple[Any, ...]] = {
    "return_attention_mask": (True,), "return_token_type_ids": (False,), "return_mm_token_type_ids": (False,),
    "return_overflowing_tokens": (False,), "return_special_tokens_mask": (False,), "return_offsets_mapping": (False,),
    "return_length": (False,), "is_split_into_words": (False,), "split_special_tokens": (False,), "stride": (0,),
    "text_pair": (), "text_target": (), "text_pair_target": (), "verbose": (True, False),
}  # fmt: skip
"""The tokenizer's, and the values besides None at which they change nothing."""
_TEMPLATE: dict[str, tuple[Any, ...]] = {
    "chat_template": (), "tools": (), "documents": (), "continue_final_message": (False,),
    "return_assistant_tokens_mask": (False,), "tokenizer_kwargs": (),
}  # fmt: skip
"""The same of apply_chat_template."""
_OTHERS: dict[str, tuple[Any, ...]] = {"videos": (), "audio": (), "device": ("cpu",)}


def image_options_among(options: dict[str, Any]) -> dict[str, Any]:
    """What is left for the image processor; PromptError says of what kind an option is that would change something."""
    for name in _GROUPS:
        group = options.get(name)
        if not (group is None or (isinstance(group, dict) and not group)):
            raise PromptError(f"{name} is the reference's group of options. Give what is in it by its own name, as padding=True.")
    for kind, known in (("tokenizer", _TOKENIZER), ("chat template", _TEMPLATE), ("processor", _OTHERS)):
        for name, neutral in known.items():
            value = options.get(name)
            if value is not None and not any(value is one or (type(value) is type(one) and value == one) for one in neutral):
                raise PromptError(
                    f"{name} is {value!r:.60}, an option of the reference's {kind} that is not offered here. Leave it out."
                )
    elsewhere = {*_GROUPS, *_TOKENIZER, *_TEMPLATE, *_OTHERS}
    return {name: value for name, value in options.items() if name not in elsewhere}
