"""Which tokens may come next, and which one does: pure functions on one row of scores.

Source: transformers 5.23, generation/logits_process.py; each rule here bears its option's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]
"""[vocab], or [kept] of the tokens that are left."""
Keep = NDArray[np.bool_]


def repetition_penalty(scores: Scores, seen: NDArray[np.int64], penalty: float) -> None:
    """Make tokens that were seen before less likely, in place."""
    found = scores[seen]
    scores[seen] = np.where(found < 0, found * np.float32(penalty), found / np.float32(penalty))


def bad_words(history: Sequence[int], words: Iterable[Sequence[int]]) -> list[int]:
    """The tokens that would complete one of the words (of two tokens or more) after a history."""
    return [last for *prefix, last in words if list(history[-len(prefix) :]) == prefix]


def sequence_bias(scores: Scores, history: Sequence[int], biases: Iterable[tuple[Sequence[int], np.float32]]) -> None:
    """Add to the scores of tokens that end a sequence of which a history has the rest, in place."""
    added = np.zeros_like(scores)
    for (*prefix, last), bias in biases:
        if not prefix or list(history[-len(prefix) :]) == prefix:
            added[last] += bias
    scores += added


def answer_penalty(scores: Scores, answer: Sequence[int], frequency: float, presence: float) -> None:
    """Make tokens of the answer less likely, by how often it has them and by having them at all, in place.

    Source: platform.openai.com, "Frequency and presence penalties".
    """
    tokens, counts = np.unique(np.asarray(answer, np.int64), return_counts=True)
    scores[tokens] -= counts.astype(np.float32) * np.float32(frequency) + np.float32(presence)


def top_k(scores: Scores, k: int, scratch: Scores | None = None) -> Keep:
    """The k best and whatever equals the last of them."""
    if k >= len(scores):
        return np.ones(len(scores), bool)
    if scratch is None:
        scratch = np.empty_like(scores)
    np.copyto(scratch, scores)
    scratch.partition(len(scores) - k)
    kept: Keep = scores >= scratch[len(scores) - k]
    return kept


def top_p(scores: Scores, p: float) -> Keep:
    """The fewest best that hold a share p of the probability."""
    order = np.argsort(scores, kind="stable")
    cumulative = np.cumsum(softmax(scores[order]), dtype=np.float32)
    keep = cumulative > np.float32(1 - p)
    keep[-1] = True
    return _unsorted(keep, order)


def min_p(scores: Scores, p: float) -> Keep:
    """Those at least p times as likely as the best."""
    probabilities = softmax(scores)
    keep: Keep = probabilities >= np.float32(p) * probabilities.max()
    keep[probabilities.argmax()] = True
    return keep


def typical_p(scores: Scores, mass: float) -> Keep:
    """Those whose surprise is nearest to the expected one, up to a share of the probability."""
    logs = log_softmax(scores)
    with np.errstate(invalid="ignore"):
        entropy = -np.nansum(logs * np.exp(logs))
    distance = np.abs(-logs - entropy)
    order = np.argsort(distance, kind="stable")
    cumulative = np.cumsum(softmax(scores[order]), dtype=np.float32)
    last = min(int((cumulative < np.float32(mass)).sum()), len(scores) - 1)
    keep = distance[order] <= distance[order[last]]
    keep[0] = True
    return _unsorted(keep, order)


def top_h(scores: Scores, share: float, most: int = 100) -> Keep:
    """The likeliest, of the `most` best, whose entropy adds up to no more than a share of theirs all together."""
    order = np.argsort(-scores, kind="stable")[:most]
    logs = log_softmax(scores[order])
    with np.errstate(invalid="ignore"):
        entropies = np.nan_to_num(-np.exp(logs) * logs)
    chosen = np.cumsum(entropies, dtype=np.float32) <= np.float32(share) * entropies.sum(dtype=np.float32)
    chosen[0] = True
    keep = np.zeros(len(scores), bool)
    keep[order[chosen]] = True
    return keep


def epsilon_cutoff(scores: Scores, epsilon: float) -> Keep:
    """Those at least that likely, or the best."""
    keep: Keep = (softmax(scores) >= np.float32(epsilon)) | (scores == scores.max())
    return keep


def eta_cutoff(scores: Scores, eta: float) -> Keep:
    """The same, with a lower bar where the distribution is flat."""
    logs = log_softmax(scores)
    entropy = -(np.exp(logs) * logs).sum()
    return epsilon_cutoff(scores, min(np.float32(eta), np.sqrt(np.float32(eta)) * np.exp(-entropy)))


def softmax(scores: Scores) -> Scores:
    """Probabilities of scores."""
    raised: Scores = np.exp(scores - scores.max())
    raised /= raised.sum()
    return raised


def log_softmax(scores: Scores) -> Scores:
    """Log-probabilities of scores [..., vocab]."""
    shifted: Scores = scores - scores.max(-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted


def draw(scores: Scores, random: np.random.Generator) -> int:
    """An index by its probability, from one uniform number."""
    cumulative = np.cumsum(np.exp((scores - scores.max()).astype(np.float64)))
    return int(np.searchsorted(cumulative, random.random() * cumulative[-1], side="right"))


def _unsorted(keep: Keep, order: NDArray[np.int64]) -> Keep:
    found = np.empty_like(keep)
    found[order] = keep
    return found
