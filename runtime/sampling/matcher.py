"""How far one answer has come in its grammar, and which tokens may follow."""

from __future__ import annotations

from concurrent.futures import Future
from copy import copy
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import PromptError, first_line
from ..parallel import begin, result_of

if TYPE_CHECKING:
    from llguidance import LLMatcher

Allowed = NDArray[np.bool_]
"""[vocab]."""


class Matcher:
    """The state of one answer. To be used from one thread at a time; masks are made in others, beside the decoder's call."""

    def __init__(self, state: LLMatcher, ends: NDArray[np.int64], own: NDArray[np.int64], vocab_size: int) -> None:
        """`ends` are the tokens that end an answer, `own` those that do so to `state`, which belongs to this matcher alone."""
        self._state, self._ends, self._own, self._vocab_size = state, ends, own, vocab_size
        self._over = False
        self._allowed: Future[Allowed | None] = begin(self._mask)

    def ready(self) -> None:
        """Wait for the first mask, which may take a second where later ones take microseconds.

        Raises:
            PromptError: the grammar is too large for it.
        """
        result_of(self._allowed)

    def push(self, token: int) -> None:
        """Take the answer's next token, and begin with the mask of the one after it."""
        result_of(self._allowed)
        self._over = self._over or token in self._ends
        self._allowed = begin(lambda: self._mask_after(token))

    def fork(self) -> Matcher:
        """A copy that goes its own way."""
        result_of(self._allowed)
        forked = copy(self)
        forked._state = self._state.deep_copy()
        return forked

    @property
    def finished(self) -> bool:
        """Whether nothing is left to say, and no token says so: the model has no end token."""
        return not self._ends.size and (result_of(self._allowed) is None or self._state.is_stopped())

    def apply(self, scores: NDArray[np.float32]) -> None:
        """Rule out what may not follow, in place; scores float32 [vocab]."""
        allowed = result_of(self._allowed)
        if allowed is None:
            scores[:] = -np.inf
            return
        likeliest = int(scores.argmax())
        if not allowed[likeliest] and likeliest not in (*self._ends, *self._own) and self._state.validate_tokens([likeliest]):
            # A word that the grammar prescribes has one spelling in the mask; the model's own is as good.
            allowed[likeliest] = True
        np.copyto(scores, -np.inf, where=~allowed)

    def _mask_after(self, token: int) -> Allowed | None:
        """The mask, or None where nothing follows: behind an end, and in a beam that was left with a token it may not have."""
        if self._over or not self._state.validate_tokens([token]):
            self._over = True
            return None
        self._state.consume_token(token)
        return self._mask()

    def _mask(self) -> Allowed:
        words = np.frombuffer(self._state.compute_bitmask(), np.uint8)
        if self._state.is_error():
            raise PromptError(
                f"The answer cannot go on by its grammar ({first_line(ValueError(self._state.get_error()))}). Ask for something "
                "simpler: shorter repeats, fewer choices."
            )
        allowed = np.unpackbits(words, count=self._vocab_size, bitorder="little").view(np.bool_)
        allowed[self._own] = False
        allowed[self._ends] = self._state.is_accepting()
        return allowed
