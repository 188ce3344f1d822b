"""How likely the model finds a text: logits of every position, and the log-probabilities of given tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..engine.engine import Engine
from ..engine.prefill import read_prompts
from ..engine.timings import Timings
from ..inputs.labels import IGNORED
from ..sample import Sample
from ..sampling.scores import log_softmax


@dataclass(frozen=True)
class Score:
    """How likely the model finds some tokens."""

    token_ids: list[int]
    """Those that were scored."""
    logprobs: list[float]
    """Natural logarithm of each one's probability after everything before it."""

    @property
    def logprob(self) -> float:
        """The sum over all tokens."""
        return float(np.sum(self.logprobs))

    @property
    def loss(self) -> float:
        """Mean negative log-probability, the reference's loss; not a number without tokens."""
        return -float(np.mean(self.logprobs)) if self.logprobs else float("nan")


def all_logits(engine: Engine, samples: Sequence[Sample]) -> list[NDArray[np.float32]]:
    """Logits [tokens, vocab] of every token of each sample."""
    found: list[list[NDArray[np.float32]]] = [[] for _ in samples]
    for index, _, logits in _pieces(engine, samples):
        found[index].append(logits)
    return [np.concatenate(pieces) for pieces in found]


def score(engine: Engine, samples: Sequence[Sample], labels: Sequence[Sequence[int]]) -> list[Score]:
    """Score each sample's labels: one stands at its token's place and is predicted in front of it; IGNORED ones are left out."""
    ids: list[list[int]] = [[] for _ in samples]
    logprobs: list[list[float]] = [[] for _ in samples]
    for index, start, logits in _pieces(engine, samples):
        next_labels = np.array(labels[index][start + 1 : start + 1 + len(logits)], np.int64)
        places = np.flatnonzero(next_labels != IGNORED)
        wanted = next_labels[places]
        ids[index] += wanted.tolist()
        logprobs[index] += log_softmax(logits[places])[np.arange(len(places)), wanted].tolist()
    return [Score(*pair) for pair in zip(ids, logprobs, strict=True)]


def _pieces(engine: Engine, samples: Sequence[Sample]) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    """Index of a sample, position of its first token, and logits [tokens, vocab], piece by piece of all samples."""
    for sample in samples:
        sample.check(engine.sizes, 0)
    order = sorted(range(len(samples)), key=lambda i: samples[i].tokens)
    cache = engine.new_cache(len(samples), samples[order[-1]].tokens)
    for part in read_prompts(engine, [samples[i] for i in order], cache, Timings(), everywhere=True):
        for row, logits in enumerate(part.logits, part.first_row):
            yield order[row], part.start, logits[: samples[order[row]].tokens - part.start]
