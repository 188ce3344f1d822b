"""Which token comes next: pure functions on logits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def ban(logits: NDArray[np.float32], histories: Sequence[Sequence[int]], bad_words: Sequence[Sequence[int]]) -> None:
    """Set to −inf, in place, each token that would complete a bad word; float32 [batch, vocab].

    `histories` holds each row's tokens so far, prompt included.
    """
    for word in bad_words:
        *prefix, last = word
        for row, history in enumerate(histories):
            if not prefix or list(history[-len(prefix) :]) == prefix:
                logits[row, last] = -np.inf


def greedy(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """The likeliest token of each row, the first of equals, int64 [batch]."""
    tokens: NDArray[np.int64] = logits.argmax(-1)
    return tokens
