"""An answer while it grows, and the whole one."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ..engine.timings import Timings
from ..sample import Sample
from ..sampling.generation_options import GenerationOptions
from ..sampling.matcher import Matcher
from ..sampling.scores import log_softmax
from ..sampling.token_chooser import History, TokenChooser
from ..text.text_stream import TextStream
from ..text.tokenizer import decode

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Generation:
    """One answer."""

    text: str
    """Without special tokens, and without the stop string that ended it."""
    token_ids: list[int]
    """All generated tokens, the end token included; with echo, the prompt's in front."""
    finish_reason: FinishReason
    """"stop" at an end token, a stop string or by stopping_criteria, "length" at max_new_tokens, max_time or where reading
    stopped."""
    prompt_tokens: int
    timings: Timings = field(default_factory=Timings)
    """What the whole call took; the answers of a batch share it."""
    logprobs: list[float | None] | None = None
    """Natural logarithm of each token's probability by the model alone, with logprobs=True; None for an echoed first token."""
    top_logprobs: list[dict[int, float]] | None = None
    """Those of the likeliest tokens at each place, best first, with top_logprobs; empty for echoed tokens."""


class Answer:
    """One answer while it grows.

    Attributes:
        prompt: index of its prompt.
        prompt_tokens: that prompt's length.
        options: its call's.
        chooser: chooses its tokens by those, and the tokens of the call's other answers.
        timings: what the call took so far.
        history: prompt and answer, for options that look back.
        random: its own source of numbers, the same in every batch.
        token_ids: the answer so far.
        finish_reason: None while it runs.
        error: what ended it instead, if something did.
    """

    def __init__(
        self,
        prompt: int,
        sample: Sample,
        sequence: int,
        limit: int,
        chooser: TokenChooser,
        tokenizer: Tokenizer,
        timings: Timings,
        streamed: bool = False,
        matcher: Matcher | None = None,
    ) -> None:
        """`sequence` is which of the prompt's answers it is; `streamed`, whether `take` will be called."""
        self.prompt, self.prompt_tokens, self._prompt_ids = prompt, sample.tokens, sample.ids
        self.history = History(list(sample.ids), unseen=sample.tokens - len(sample.ids), matcher=matcher)
        self.options, self.chooser, self.timings = (options := chooser.options), chooser, timings
        self._tokenizer = tokenizer
        self._text = TextStream(tokenizer, options.stop_strings) if streamed or options.stop_strings else None
        self.random = np.random.default_rng(None if options.seed is None else [options.seed, sequence])
        self._ends_at = None if options.max_time is None else time.monotonic() + options.max_time
        self.limit = limit
        """Tokens it may have."""
        self.token_ids: list[int] = []
        self.finish_reason: FinishReason | None = None
        self.logprobs: list[float | None] = []
        self.top_logprobs: list[dict[int, float]] = []
        self.error: Exception | None = None
        self._pieces: list[str] = []

    def push(self, token: int, raw: NDArray[np.float32] | None = None) -> None:
        """Take a token, with the model's own logits [vocab] if their probabilities are asked for."""
        self.timings.first_tokens += not self.token_ids
        self.timings.new_tokens += 1
        self.token_ids.append(token)
        self.history.append(token)
        if raw is not None:
            logs = log_softmax(raw)
            self.logprobs.append(float(logs[token]))
            if self.options.top_logprobs:
                best = np.argsort(-logs, kind="stable")[: self.options.top_logprobs].tolist()
                self.top_logprobs.append({i: float(logs[i]) for i in best})
        if self._text is not None and (piece := self._text.push(token)):
            self._pieces.append(piece)
        if token in self.options.eos_token_id or (self._text is not None and self._text.stopped):
            self.finish_reason = "stop"
        elif len(self.token_ids) >= self.limit or (self._ends_at is not None and time.monotonic() > self._ends_at):
            self.finish_reason = "length"
        elif self.history.is_whole or (self.options.stopping_criteria and self._is_stopped()):
            self.finish_reason = "stop"
        if self.finish_reason and self._text is not None and (piece := self._text.close()):
            self._pieces.append(piece)

    def fail(self, error: Exception) -> None:
        """End with an error."""
        self.error, self.finish_reason = error, self.finish_reason or "stop"

    def _is_stopped(self) -> bool:
        ids = np.array([self.history.ids], np.int64)
        return any(bool(np.all(criterion(ids, None))) for criterion in self.options.stopping_criteria)

    def note_prompt(self, start: int, logits: NDArray[np.float32]) -> None:
        """Take log-probabilities of an echoed prompt's tokens from the logits [tokens, vocab] of those from `start` on."""
        ids = self._prompt_ids[start + 1 : start + 1 + len(logits)]
        found = log_softmax(logits[: len(ids)])[np.arange(len(ids)), ids].tolist()
        self.logprobs += ([] if start else [None]) + found
        self.top_logprobs += [{} for _ in range(len(ids) + (not start))]

    def take(self) -> str:
        """The text that became certain since the last call."""
        pieces, self._pieces = self._pieces, []
        return "".join(pieces)

    def echoed(self) -> str:
        """With echo, the prompt's text as it stands in front of this answer; else nothing."""
        if not self.options.echo:
            return ""
        return self._in_front()

    @property
    def space(self) -> str:
        """What stands between the prompt's text and this answer's, and is lost where that is decoded alone."""
        return self._in_front()[len(self._decoded(self._prompt_ids)) :]

    def result(self) -> Generation:
        """The answer so far."""
        text = self._text.text if self._text is not None and self._text.stopped else self._decoded(self.token_ids)
        return Generation(
            self.echoed() + text,
            (self._prompt_ids if self.options.echo else []) + self.token_ids,
            self.finish_reason or "length",
            self.prompt_tokens,
            self.timings,
            list(self.logprobs) if self.options.logprobs else None,
            list(self.top_logprobs) if self.options.top_logprobs else None,
        )

    def _in_front(self) -> str:
        """The prompt's text as it stands in front of this answer."""
        whole = self._decoded([*self._prompt_ids, *self.token_ids])
        return whole[: len(whole) - len(self._decoded(self.token_ids))]

    def _decoded(self, token_ids: list[int]) -> str:
        return decode(self._tokenizer, token_ids, True)


def with_answers(input_ids: NDArray[Any] | None, answers: list[list[int]], options: GenerationOptions) -> NDArray[np.int64]:
    """Prompts as they came, each as often as it has answers, followed by the answers, int64 [answers, seq + longest answer].

    Without ids, as for embeddings, the answers alone.
    """
    pad = options.pad_token_id or 0
    # Beam search of the reference takes a padding token of 0 for none.
    if options.eos_token_id and (options.pad_token_id is None or (options.num_beams > 1 and not pad)):
        pad = options.eos_token_id[0]
    new = np.full((len(answers), max(map(len, answers))), pad, np.int64)
    for row, answer in enumerate(answers):
        new[row, : len(answer)] = answer
    if input_ids is None:
        return new
    prompts = np.repeat(np.asarray(input_ids, np.int64), len(answers) // len(input_ids), axis=0)
    return np.concatenate([prompts, new], axis=1)
