"""Answers as OpenAI's two interfaces write them: what they have in common."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from ..generation.answer import Generation
from ..generation.handle import Handle
from .logprobs import Likelihood


class Reply(ABC):
    """What one request is answered with, whole or in chunks."""

    kind: ClassVar[str]
    chunk_kind: ClassVar[str]
    prefix: ClassVar[str]
    """Of its id."""
    prompt: ClassVar[str]
    """The field that asks."""

    def __init__(self, model: str) -> None:
        self._head = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    @abstractmethod
    def whole_choice(self, answer: Generation, found: list[Likelihood] | None) -> dict[str, Any]:
        """A whole answer, and how likely its tokens were if that was asked for."""

    @abstractmethod
    def first_piece(self) -> dict[str, Any] | None:
        """What a stream says of an answer before its text, if anything."""

    @abstractmethod
    def piece(self, text: str) -> dict[str, Any]:
        """A piece of an answer's text."""

    @abstractmethod
    def last_piece(self, found: list[Likelihood] | None) -> dict[str, Any]:
        """What a stream says of an answer at its end, with the likelihood of all of its tokens."""

    def whole(self, choices: Sequence[dict[str, Any]], answers: Sequence[Generation], **more: Any) -> dict[str, Any]:
        """The response, with choices as `whole_choice` gives them."""
        numbered = [
            {"index": index, **choice, "finish_reason": answer.finish_reason}
            for index, (choice, answer) in enumerate(zip(choices, answers, strict=True))
        ]
        return {**self._head, "object": self.kind, "system_fingerprint": None, "choices": numbered, **more}

    def chunk(self, index: int, choice: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        """One event of a stream, about the answer with this index."""
        return {**self._head, "object": self.chunk_kind, "choices": [{"index": index, **choice, "finish_reason": reason}]}

    def last_chunk(self, **more: Any) -> dict[str, Any]:
        """The event without a choice."""
        return {**self._head, "object": self.chunk_kind, "choices": [], **more}


def usage(answers: Sequence[Generation], each: int) -> dict[str, Any]:
    """Tokens; a prompt with `each` answers counts once."""
    prompts, new = sum(answer.prompt_tokens for answer in answers[::each]), sum(len(answer.token_ids) for answer in answers)
    known = sum(answer.timings.prompt_tokens_reused for answer in answers[::each])
    return {
        "prompt_tokens": prompts,
        "completion_tokens": new,
        "total_tokens": prompts + new,
        "prompt_tokens_details": {"cached_tokens": known},
    }


def timings(answers: Sequence[Generation], handles: Sequence[Handle], started: float) -> dict[str, float | None]:
    """Seconds, of the first prompt where there are several; `started` is a `time.perf_counter`."""
    own, times = answers[0].timings, handles[0].piece_times
    return {
        "queue": own.waiting,
        "image": own.images,
        "prompt": own.prefill,
        "first_token": times[0] - started if times else None,
        "tokens_per_second": own.tokens_per_second,
    }
