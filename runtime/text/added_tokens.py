"""The tokens that stand beside a tokenizer's vocabulary, with the flags that the reference's tokenizer and processor give them.

Source: transformers 5.23, PreTrainedTokenizerBase._from_pretrained, TokenizersBackend.__init__ and Idefics2Processor.__init__.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer

from ..image_tokens import END_OF_UTTERANCE, FAKE_IMAGE, IMAGE
from .tokenizer_rules import check_added

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class AddedTokens:
    """What a tokenizer's files say about them, each file's JSON object, empty for one that is not there."""

    tokenizer: dict[str, Any]
    """tokenizer.json"""
    config: dict[str, Any]
    """tokenizer_config.json"""
    special_tokens_map: dict[str, Any]
    added_tokens: dict[str, Any]

    def add_to(self, tokenizer: Tokenizer, vocab_size: int | None) -> None:
        """Give every token its flags; one that the vocabulary lacks is added where an embedding table of that size has a row."""
        listed = [token for _, token in sorted(self._listed().items())]
        settings = self.config if "added_tokens_decoder" in self.config else self.config | self.special_tokens_map
        named = [_token(value) for value in _named(settings)]
        for token in (*listed, *named):
            token.special = token.special or token.content in {other.content for other in named}
        known = {token.content for token in (*tokenizer.get_added_tokens_decoder().values(), *listed)}
        extra = [_token(value) for value in _extra(settings)]
        own = [token for token in (*named, *extra) if token.content not in known]
        always = [AddedToken(content, normalized=False, special=True) for content in (FAKE_IMAGE, IMAGE, END_OF_UTTERANCE)]
        every = [*listed, *own, *always]
        check_added([token.content for token in every])
        tokenizer.add_tokens(_with_room(every, tokenizer, vocab_size))  # at once: each call builds all again

    def _listed(self) -> dict[int, AddedToken]:
        """By id: those of the newest file that lists them."""
        if "added_tokens_decoder" in self.config:
            return {int(i): _token(token) for i, token in self.config["added_tokens_decoder"].items()}
        special = {_token(value).content for value in (*_named(self.config), *_extra(self.config))}
        older = {
            i: AddedToken(name, normalized=name not in special, special=name in special) for name, i in self.added_tokens.items()
        }
        return older | {token["id"]: _token(token) for token in self.tokenizer.get("added_tokens") or []}


def _with_room(tokens: list[AddedToken], tokenizer: Tokenizer, vocab_size: int | None) -> list[AddedToken]:
    """Those that are known, and as many of the others as there are rows left for."""
    kept, size, new = [], tokenizer.get_vocab_size(), set[str]()
    for token in tokens:
        is_new = tokenizer.token_to_id(token.content) is None and token.content not in new
        if is_new and vocab_size is not None and size + len(new) >= vocab_size:
            continue
        if is_new and token.content:
            new.add(token.content)
        kept.append(token)
    return kept


def _named(settings: dict[str, Any]) -> Iterator[Any]:
    """Values of the settings that are one token each, and of a dict of such."""
    extra = settings.get("extra_special_tokens")
    for name, value in (settings | (extra if isinstance(extra, dict) else {})).items():
        if name in _NAMED or (name.endswith("_token") and isinstance(value, str)):
            if value is not None:
                yield value
        elif isinstance(extra, dict) and name in extra:
            yield value


def _extra(settings: dict[str, Any]) -> list[Any]:
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    return extra if isinstance(extra, list) else []


def _token(value: Any) -> AddedToken:
    """From a string, which is a special token, or an object with content and flags, as files hold it."""
    if isinstance(value, str):
        return AddedToken(value, normalized=False, special=True)
    return AddedToken(value["content"], **{name: bool(value[name]) for name in _FLAGS if name in value})
