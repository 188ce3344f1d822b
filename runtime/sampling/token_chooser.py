"""The options that decide about the next token, in the reference's order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..errors import PromptError
from . import scores as sampling
from .generation_options import GenerationOptions
from .matcher import Matcher


@dataclass
class History:
    """A row's tokens so far, prompt included, as far as options ask about them."""

    ids: list[int]
    new: int = 0
    """How many of them were generated."""
    unseen: int = 0
    """Tokens of a prompt that came as embeddings, and are not among `ids`."""
    matcher: Matcher | None = None
    """Where the answer stands in the grammar that it has to follow."""
    _seen: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    _followers: dict[tuple[int, ...], list[int]] = field(default_factory=dict)
    _read: int = 0
    _ngrams_read: int = 0

    def append(self, token: int) -> None:
        self.ids.append(token)
        self.new += 1
        if self.matcher is not None:
            self.matcher.push(token)

    @property
    def is_whole(self) -> bool:
        """Whether its grammar has nothing left, and the model no token that says so."""
        return self.matcher is not None and self.matcher.finished

    @property
    def generated(self) -> list[int]:
        """The tokens after the prompt."""
        return self.ids[len(self.ids) - self.new :]

    @property
    def prompt(self) -> list[int]:
        """The tokens in front of those."""
        return self.ids[: len(self.ids) - self.new]

    def fork(self) -> History:
        """A copy that goes its own way."""
        return History(list(self.ids), self.new, self.unseen, self.matcher and self.matcher.fork())

    def seen(self) -> NDArray[np.int64]:
        """Each token once."""
        if self._read < len(self.ids):
            self._seen = np.union1d(self._seen, self.ids[self._read :])
            self._read = len(self.ids)
        return self._seen

    def repeating(self, size: int) -> list[int]:
        """Tokens that would repeat a sequence of `size` tokens."""
        for end in range(max(size, self._ngrams_read + 1), len(self.ids) + 1):
            *start, last = self.ids[end - size : end]
            self._followers.setdefault(tuple(start), []).append(last)
        self._ngrams_read = max(self._ngrams_read, len(self.ids))
        if len(self.ids) + 1 < size:
            return []
        return self._followers.get(tuple(self.ids[len(self.ids) + 1 - size :]), [])


class TokenChooser:
    """Chooses tokens by one call's options. It has scratch memory: one per call, not shared between threads."""

    def __init__(self, options: GenerationOptions, vocab_size: int) -> None:
        self.options = options
        words = [word for word in options.banned if max(word) < vocab_size]
        self._words = [word for word in words if len(word) > 1]
        never = {word[0] for word in words if len(word) == 1} | {i for i in options.suppress_tokens if i < vocab_size}
        self.never: NDArray[np.int64] = np.array(sorted(never), np.int64)
        """Tokens that are not chosen at any time."""
        self._begin = np.array([i for i in options.begin_suppress_tokens if i < vocab_size], np.int64)
        self._biases = [(ids, np.float32(bias)) for ids, bias in options.sequence_bias if max(ids) < vocab_size]
        logit_bias = {i: bias for i, bias in options.logit_bias if i < vocab_size}
        self._biased = np.array(list(logit_bias), np.int64)
        self._added = np.array(list(logit_bias.values()), np.float32)
        self._ends = np.array([i for i in options.eos_token_id if i < vocab_size], np.int64)
        self._looks_back = bool(
            self._words
            or self._biases
            or self._biased.size
            or self._begin.size
            or options.no_repeat_ngram_size
            or options.min_new_tokens
            or options.min_length
            or options.frequency_penalty
            or options.presence_penalty
            or not options.repetition_penalty == options.encoder_repetition_penalty == 1.0
        )
        self._scratch: NDArray[np.float32] = np.empty(vocab_size, np.float32)

    @property
    def takes_likeliest(self) -> bool:
        """Whether it is always the likeliest token, of those that may be chosen at all."""
        return not (self.options.do_sample or self._looks_back or self.options.structure) and len(self.never) < len(self._scratch)

    def constrain(self, scores: NDArray[np.float32], histories: Sequence[History]) -> None:
        """Apply what holds for sampling, greedy and beam search alike, in place; scores float32 [rows, vocab]."""
        if self._looks_back:
            for row, history in zip(scores, histories, strict=True):
                self._constrain_by_history(row, history)
        if self.never.size:
            scores[:, self.never] = -np.inf
        for row, history in zip(scores, histories, strict=True):
            if history.matcher is not None:
                history.matcher.apply(row)

    def choose(self, logits: NDArray[np.float32], rows: Sequence[tuple[History, np.random.Generator]]) -> list[int]:
        """The next token of every row; logits float32 [rows, vocab] are changed."""
        self.constrain(logits, [history for history, _ in rows])
        if self.options.do_sample:
            return [self._draw(scores, random) for scores, (_, random) in zip(logits, rows, strict=True)]
        tokens = logits.argmax(-1)
        if np.isneginf(logits[np.arange(len(tokens)), tokens]).any():
            raise nothing_left(self.options)
        return tokens.tolist()  # type: ignore[no-any-return]

    def filter(self, scores: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The tokens that may be drawn and their scores; scores float32 [vocab] are changed."""
        options = self.options
        if options.temperature != 1.0:
            scores /= np.float32(options.temperature)
        if options.top_h is not None:
            scores[~sampling.top_h(scores, options.top_h)] = -np.inf
        keep = sampling.top_k(scores, options.top_k, self._scratch) if options.top_k else np.isfinite(scores)
        tokens = np.flatnonzero(keep & (scores > -np.inf))
        left = scores[tokens]
        for rule, value, off in (
            (sampling.top_p, options.top_p, 1.0),
            (sampling.min_p, options.min_p, None),
            (sampling.typical_p, options.typical_p, 1.0),
            (sampling.epsilon_cutoff, options.epsilon_cutoff, 0.0),
            (sampling.eta_cutoff, options.eta_cutoff, 0.0),
        ):
            if value is not None and value != off:
                kept = rule(left, value)
                tokens, left = tokens[kept], left[kept]
        return tokens, left

    def _draw(self, scores: NDArray[np.float32], random: np.random.Generator) -> int:
        tokens, left = self.filter(scores)
        if not len(tokens):
            raise nothing_left(self.options)
        return int(tokens[sampling.draw(left, random)])

    def _constrain_by_history(self, scores: NDArray[np.float32], history: History) -> None:
        options = self.options
        if self._biases:
            sampling.sequence_bias(scores, history.ids, self._biases)
        scores[self._biased] += self._added
        if options.encoder_repetition_penalty != 1.0 and history.prompt:
            sampling.repetition_penalty(scores, np.unique(history.prompt), 1 / options.encoder_repetition_penalty)
        if options.repetition_penalty != 1.0:
            sampling.repetition_penalty(scores, history.seen(), options.repetition_penalty)
        if options.frequency_penalty or options.presence_penalty:
            sampling.answer_penalty(scores, history.generated, options.frequency_penalty, options.presence_penalty)
        if options.no_repeat_ngram_size:
            scores[history.repeating(options.no_repeat_ngram_size)] = -np.inf
        if self._words:
            scores[sampling.bad_words(history.ids, self._words)] = -np.inf
        if history.new < options.least_new_tokens(history.unseen + len(history.ids) - history.new):
            scores[self._ends] = -np.inf
        if not history.new:
            scores[self._begin] = -np.inf


def nothing_left(options: GenerationOptions) -> PromptError:
    """The options contradict each other for what was said so far."""
    and_which = f"The {options.structure} and the other options" if options.structure else "The options"
    eased = "suppress_tokens, bad_words_ids or no_repeat_ngram_size"
    if options.structure:
        eased += ", or min_new_tokens if the answer is whole"
    return PromptError(f"{and_which} forbid every token. Ease {eased}.")
