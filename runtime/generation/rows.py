"""Answers that grow together: each is a row of one key/value cache, from the first row on."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..engine.decode_step import DecodeStep
from ..engine.engine import Engine
from ..engine.timings import Timings
from ..memory.key_value_cache import KeyValueCache
from ..sampling.prompt_lookup import draft
from ..sampling.token_chooser import TokenChooser
from .answer import Answer

_NOTHING: NDArray[np.int64] = np.empty(0, np.int64)


class Rows:
    """The running answers. Each brings its own options, and what fails for one of them ends that one.

    Attributes:
        cache: holds what each answer's next token follows from, but for the answer's last token.
        answers: row by row; they change places when others leave.
    """

    def __init__(self, engine: Engine, cache: KeyValueCache, answers: Iterable[Answer] = ()) -> None:
        self._engine, self.cache, self.answers = engine, cache, list(answers)
        self._steps: dict[int, DecodeStep] = {}  # by number of rows, as they come and go; making one takes a quarter millisecond
        self._bound = cache.bound_as

    def step(self) -> None:
        """Read every answer's last token and take the next, or several where guesses are checked.

        Raises:
            ModelFolderError, ProviderError: the decoder failed, for all of them.
        """
        start, answers, cache = time.perf_counter(), self.answers, self.cache
        drafts = [_draft(answer) for answer in answers]
        most = int(cache.tokens[: len(answers)].max()) + 1 + max(map(len, drafts))
        cache.reserve(most, max(answer.prompt_tokens + answer.limit for answer in answers))
        if any(drafts):
            for row, guesses in enumerate(drafts):
                self._verify(row, guesses)
        else:
            self._step_all()
        seconds = time.perf_counter() - start
        for timings in _once(answer.timings for answer in answers):
            timings.decode += seconds
            timings.cache_bytes = cache.peak_bytes

    def accept(self, logits: NDArray[np.float32], answers: Sequence[Answer]) -> None:
        """Choose the next token of some answers; logits float32 [answers, vocab] are changed."""
        self._engine.check_finite(logits)
        places: dict[TokenChooser, list[int]] = {}
        for place, answer in enumerate(answers):
            places.setdefault(answer.chooser, []).append(place)
        for chooser, own in places.items():
            together = len(own) == own[-1] - own[0] + 1
            scores = logits[own[0] : own[-1] + 1] if together else logits[own]
            _choose(chooser, scores, [answers[place] for place in own])

    def leave(self) -> list[Answer]:
        """Take out the answers that ended, with their rows of the cache; the last ones take their places."""
        left = []
        for row in reversed(range(len(self.answers))):
            if self.answers[row].finish_reason:
                left.append(self.answers[row])
                if row != len(self.answers) - 1:
                    self.cache.take(row, len(self.answers) - 1)
                self.answers[row] = self.answers[-1]
                self.answers.pop()
        return left

    def _step_all(self) -> None:
        """One decoder call; the next tokens are chosen where the logits are if nothing else looks at them."""
        answers = self.answers
        never = self._never() if self._engine.argmax else None
        step, last = self._decode_step(_NOTHING if never is None else never), [answer.token_ids[-1] for answer in answers]
        chosen = None if never is None else step.greedy(last)
        if chosen is None:
            self.accept(step(last), answers)
        else:
            for answer, token in zip(answers, chosen, strict=True):
                answer.push(token)
        for timings in _once(answer.timings for answer in answers):
            timings.steps += 1

    def _never(self) -> NDArray[np.int64] | None:
        """The tokens that no answer may have, if all of them take the likeliest of the others; else None."""
        never = self.answers[0].chooser.never
        alike = all(
            answer.chooser.takes_likeliest and not answer.options.logprobs and np.array_equal(answer.chooser.never, never)
            for answer in self.answers
        )
        return never if alike else None

    def _decode_step(self, never: NDArray[np.int64]) -> DecodeStep:
        if self._bound is not self.cache.bound_as:
            self._steps, self._bound = {}, self.cache.bound_as
        rows = len(self.answers)
        step = self._steps.get(rows)
        if step is None or not np.array_equal(step.never, never):
            step = self._steps[rows] = DecodeStep(self._engine, self.cache, rows, never)
        return step

    def _verify(self, row: int, guesses: list[int]) -> None:
        """Read the last token and the guesses after it in one call, and keep what the model would have said."""
        answer, cache = self.answers[row], self.cache
        held = int(cache.tokens[row])
        ids = np.array([[answer.token_ids[-1], *guesses]], np.int64)
        logits = self._engine.decode(
            self._engine.embed(ids), np.array([ids.size]), cache, np.arange(ids.size)[None], first_row=row
        )
        # At every moment the cache counts no guess that the answer does not have: an interruption must not leave others' keys.
        cache.keep(row, held + 1)
        right = 0
        for place, guess in enumerate([*guesses, None]):
            self.accept(logits[:, place], [answer])
            if answer.finish_reason or answer.token_ids[-1] != guess:
                break
            right += 1
            cache.keep(row, held + 1 + right)
        answer.timings.steps += 1
        answer.timings.drafted += len(guesses)
        answer.timings.accepted += right


def spread(cache: KeyValueCache, prompts: int, beams: int) -> None:
    """Give each of the first rows `beams` rows, side by side; from the end, so that none is overwritten before it is copied."""
    for row in reversed(range(prompts)):
        for beam in range(beams):
            if row * beams + beam != row:
                cache.take(row * beams + beam, row)


def _choose(chooser: TokenChooser, logits: NDArray[np.float32], answers: Sequence[Answer]) -> None:
    """Give answers of one call a token each, or the error that came of it: options can contradict each other for what was said
    so far, and a stopping criterion is the caller's code.
    """
    try:
        raw = logits.copy() if chooser.options.logprobs else None
        tokens = chooser.choose(logits, [(answer.history, answer.random) for answer in answers])
        for place, (answer, token) in enumerate(zip(answers, tokens, strict=True)):
            answer.push(token, None if raw is None else raw[place])
    except Exception as error:
        for answer in answers:
            answer.fail(error)


def _draft(answer: Answer) -> list[int]:
    asked = answer.options.prompt_lookup_num_tokens
    return draft(answer.history.ids, min(asked, answer.limit - len(answer.token_ids) - 1)) if asked else []


def _once(timings: Iterable[Timings]) -> Iterable[Timings]:
    """Each of them once: the answers of a call share theirs."""
    return {id(own): own for own in timings}.values()
