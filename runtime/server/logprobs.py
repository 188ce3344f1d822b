"""How likely each token of an answer was, as OpenAI's two interfaces write it."""

from __future__ import annotations

import re
from codecs import getincrementaldecoder
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from tokenizers import Tokenizer

from ..generation.answer import Generation
from ..text.tokenizer import decode

LEAST = -9999.0
"""OpenAI's number for what is next to impossible; JSON has no infinity."""
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True)
class Likelihood:
    """A token of an answer's text, and those that might have stood there."""

    text: str
    content: bytes
    logprob: float
    others: list[Likelihood]
    """The likeliest first."""
    start: int = 0
    """Where it begins in the answer's text; each byte of a character begins where that does."""

    def for_chat(self, alone: bool = False) -> dict[str, Any]:
        own = {"token": self.text, "logprob": self.logprob, "bytes": list(self.content)}
        return own if alone else own | {"top_logprobs": [other.for_chat(alone=True) for other in self.others]}


def likelihoods(answer: Generation, tokenizer: Tokenizer, ends: tuple[int, ...]) -> Iterator[Likelihood]:
    """Token by token, without the end token and what a stop string cut off."""
    before: int | None = None
    length, characters = 0, getincrementaldecoder("utf-8")("replace")
    for place, (token, logprob) in enumerate(zip(answer.token_ids, answer.logprobs or [], strict=True)):
        if token in ends or (length >= len(answer.text) and answer.finish_reason == "stop"):
            return
        top = answer.top_logprobs[place] if answer.top_logprobs else {}
        one = _likelihood(
            tokenizer, before, token, logprob, [_likelihood(tokenizer, before, *other, []) for other in top.items()]
        )
        yield replace(one, start=length)
        length += len(characters.decode(one.content))
        before = token


def for_chat(found: list[Likelihood]) -> dict[str, Any]:
    return {"content": [one.for_chat() for one in found], "refusal": None}


def for_completion(found: list[Likelihood]) -> dict[str, Any]:
    return {
        "tokens": [one.text for one in found],
        "token_logprobs": [one.logprob for one in found],
        "top_logprobs": [{other.text: other.logprob for other in one.others} for one in found],
        "text_offset": [one.start for one in found],
    }


def _likelihood(
    tokenizer: Tokenizer, before: int | None, token: int, logprob: float | None, others: list[Likelihood]
) -> Likelihood:
    """A token's text as it stands behind another one; a byte of a character is its own number."""
    value = LEAST if logprob is None else max(logprob, LEAST)
    if byte := _BYTE.fullmatch(tokenizer.id_to_token(token) or ""):
        return Likelihood(f"bytes:\\x{byte[1].lower()}", bytes.fromhex(byte[1]), value, others)
    front = [] if before is None else [before]
    words = decode(tokenizer, [*front, token], False)[len(decode(tokenizer, front, False)) :]
    return Likelihood(words, words.encode(), value, others)
