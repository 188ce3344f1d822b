"""Beam search over one prompt: which beams go on, which answers are kept, and when to stop.

Source: transformers 5.23, GenerationMixin._beam_search, whose scores and order this follows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..text.text_stream import TextStream
from .generation_options import GenerationOptions
from .scores import log_softmax
from .token_chooser import History, TokenChooser, nothing_left

_NEVER = np.float32(-1e9)
"""What the reference adds to a score to rule it out."""


@dataclass(frozen=True)
class _Finished:
    score: np.float32
    token_ids: list[int]
    real: bool
    """False for the places that no answer has taken yet."""


class BeamSearch:
    """The beams of one prompt.

    Attributes:
        done: whether the search is over.
        last_tokens: the token each beam was continued with.
    """

    def __init__(
        self,
        options: GenerationOptions,
        chooser: TokenChooser,
        prompt: History,
        limit: int,
        new_text: Callable[[], TextStream],
    ) -> None:
        """`limit` is how many tokens an answer may have; `new_text` makes what looks for stop strings."""
        self._options, self._chooser, self._limit = options, chooser, limit
        self._beams = options.num_beams
        self._texts = [new_text() for _ in range(self._beams)] if options.stop_strings else []
        self._histories = [prompt.fork() for _ in range(self._beams)]
        # All beams are equal at first: only one of them may be continued.
        self._scores = np.array([0.0] + [_NEVER] * (self._beams - 1), np.float32)
        self._finished = [_Finished(_NEVER, [], False)] * self._beams
        self._improvable = True
        self.done = False
        self.last_tokens: list[int] = []

    def advance(self, logits: NDArray[np.float32]) -> list[int]:
        """Continue by one token; logits float32 [beams, vocab]. Returns the beam each new one comes from."""
        scores = log_softmax(logits)
        self._chooser.constrain(scores, self._histories)
        if np.isneginf(scores).all():
            raise nothing_left(self._options)
        if self._options.renormalize_logits:
            alive = ~np.isneginf(scores).all(-1)
            scores[alive] = log_softmax(scores[alive])
        scores += self._scores[:, None]
        candidates = max(2, 1 + len(self._options.eos_token_id)) * self._beams
        best = _largest(scores.reshape(-1), candidates)
        sources, tokens = (part.tolist() for part in np.divmod(best, scores.shape[1]))
        found = scores.reshape(-1)[best]
        hits = np.array([self._ends(source, token) for source, token in zip(sources, tokens, strict=True)])

        new = self._histories[0].new + 1
        self._keep(found, hits, sources, tokens, new)
        running = found + hits.astype(np.float32) * _NEVER
        chosen = _largest(running, self._beams).tolist()
        histories = [self._histories[sources[i]].fork() for i in chosen]
        self._texts = [self._texts[sources[i]].fork() for i in chosen] if self._texts else []
        self.last_tokens = [tokens[i] for i in chosen]
        for history, token in zip(histories, self.last_tokens, strict=True):
            history.append(token)
        for text, token in zip(self._texts, self.last_tokens, strict=False):
            text.push(token)
        self._histories, self._scores = histories, running[chosen]
        self._improvable = self._improvable and self._may_improve(new)
        self.done = not self._improvable or self._enough or bool(hits[~np.isneginf(found)].all())
        return [sources[i] for i in chosen]

    def best(self, count: int) -> list[list[int]]:
        """Tokens of the best answers."""
        return [answer.token_ids for answer in self._finished[:count]]

    @property
    def _enough(self) -> bool:
        """Whether as many answers as beams are what was asked for."""
        return self._options.early_stopping is True and all(answer.real for answer in self._finished)

    def _ends(self, source: int, token: int) -> bool:
        history = self._histories[source]
        if token in self._options.eos_token_id or history.new + 1 >= self._limit:
            return True
        if not self._texts:
            return False
        text = self._texts[source].fork()
        text.push(token)
        return text.stopped

    def _keep(self, found: NDArray[np.float32], hits: NDArray[np.bool_], sources: list[int], tokens: list[int], new: int) -> None:
        """Put the candidates that end among the finished answers, as far as they are better."""
        scores = found / np.float32(new**self._options.length_penalty)
        if self._enough or not self._improvable:
            scores = scores + _NEVER
        # Only the best `num_beams` candidates may end; the others are there to go on in their place.
        ends = hits & (np.arange(len(hits)) < self._beams)
        scores = scores + (~ends).astype(np.float32) * _NEVER
        fresh = [
            _Finished(score, [*self._histories[source].generated, token], bool(end))
            for score, source, token, end in zip(scores, sources, tokens, ends, strict=True)
        ]
        merged = self._finished + fresh
        order = _largest(np.array([answer.score for answer in merged], np.float32), self._beams)
        self._finished = [merged[i] for i in order]

    def _may_improve(self, new: int) -> bool:
        """Whether a running beam may still become better than the worst finished answer, by the reference's estimate."""
        penalty = self._options.length_penalty
        length = self._limit if self._options.early_stopping == "never" and penalty > 0 else new
        best = self._scores[0] / np.float32(length**penalty)
        worst = min(answer.score for answer in self._finished)
        return any(best > (worst if answer.real else _NEVER) for answer in self._finished)


def _largest(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Indices of the largest values, largest first, the first of equals first."""
    count = min(count, len(values))
    smallest = np.partition(values, len(values) - count)[len(values) - count]
    found = np.flatnonzero(values >= smallest)
    return found[np.argsort(-values[found], kind="stable")][:count]
