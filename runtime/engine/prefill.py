"""Reading prompts into the cache, and the logits on the way."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..memory.buffer import Buffer
from ..memory.key_value_cache import KeyValueCache
from ..sample import Sample
from .engine import Engine
from .interruption import Interruption
from .timings import Timings

TOKENS_PER_CALL = 512
"""A decoder call on prompts takes so many tokens, padding included: attention's scores [heads, new, total] bound the memory."""
PADDING_SHARE = 0.25
"""Prompts go together as long as no more than this share of a call's tokens is padding."""


@dataclass(frozen=True)
class PromptLogits:
    """What one decoder call says about some rows of the cache."""

    first_row: int
    start: int
    """Position in the rows' prompts of the first logits."""
    logits: NDArray[np.float32]
    """[rows, k, vocab], right-padded: k new tokens, or the last one only."""


class Prompts:
    """Prompts that go through the decoder together, piece by piece, each after what its row of a cache holds.

    Attributes:
        read: tokens of each that the cache holds.
        tokens: of the longest.
    """

    def __init__(
        self, engine: Engine, samples: Sequence[Sample], features: Sequence[Buffer], timings: Timings, everywhere: bool = False
    ) -> None:
        """`features` are those of all the samples' tiles, in order; `everywhere`, whether to give logits of every token."""
        self._engine, self._samples, self._features, self._timings = engine, samples, features, timings
        self._everywhere, self._sight = everywhere, engine.look(samples, features)
        self.read, self.tokens = samples[0].reused, max(sample.tokens for sample in samples)

    def next(self, cache: KeyValueCache, first_row: int, most: int) -> PromptLogits:
        """Read so many tokens of each at most, into as many rows from the first on."""
        engine, begin = self._engine, self.read
        end = min(self.tokens, begin + most)
        embeds = engine.embed_prompts(self._samples, self._features, begin, end)
        new = np.array([min(end, sample.tokens) - begin for sample in self._samples], np.int64)
        every = np.broadcast_to(np.arange(new.max()), (len(new), int(new.max())))
        positions = np.ascontiguousarray(every) if self._everywhere else new[:, None] - 1
        sight = self._sight and self._sight.between(begin, end)
        logits = engine.decode(embeds, new, cache, positions, first_row, "prompt", sight)
        engine.check_finite(logits, self._features, "prompt")
        if end == self.tokens:
            engine.keep_sight(cache, first_row, self._samples, self._sight)
        self._timings.prompt_tokens += int(new.sum())
        self.read = end
        return PromptLogits(first_row, begin, logits)


def encode_tiles(
    engine: Engine, samples: Sequence[Sample], timings: Timings, interruption: Interruption | None = None
) -> list[Buffer]:
    """Features of all tiles of some samples, in order; those that are features already are taken as they are.

    `interruption` and errors as in `Engine.encode_images`.
    """
    start = time.perf_counter()
    tiles = [tile for sample in samples for tile in sample.tiles]
    encoded = iter(engine.encode_images([tile for tile in tiles if tile.ndim == 3], timings, interruption))
    features = [next(encoded) if tile.ndim == 3 else engine.features_from(tile) for tile in tiles]
    timings.images += time.perf_counter() - start
    return features


def read_prompts(
    engine: Engine, samples: Sequence[Sample], cache: KeyValueCache, timings: Timings, *, everywhere: bool = False
) -> Iterator[PromptLogits]:
    """Run the decoder over prompts, each after what its row of the cache holds.

    Short prompts of about one length go through together, long ones in pieces.

    Args:
        samples: row by row of the cache, shorter ones first.
        everywhere: give logits of every token; else the last ones, and of pieces in between something of no meaning.
    """
    features = encode_tiles(engine, samples, timings)
    firsts = np.cumsum([0, *(len(sample.tiles) for sample in samples)])
    for row, stop in _together(samples):
        prompts = Prompts(engine, samples[row:stop], features[firsts[row] : firsts[stop]], timings, everywhere)
        while prompts.read < prompts.tokens:
            yield prompts.next(cache, row, TOKENS_PER_CALL)


def images_at_once(samples: Sequence[Sample]) -> int:
    """Most images that one decoder call on these prompts is given, of the same number for each row and one at least.

    Args:
        samples: as `read_prompts` takes them.
    """
    return max((stop - row) * max(1, *(len(sample.tiles) for sample in samples[row:stop])) for row, stop in _together(samples))


def _together(samples: Sequence[Sample]) -> Iterator[tuple[int, int]]:
    """Rows from, to, that go through the decoder together: one alone in pieces, or several in one call."""
    row = 0
    while row < len(samples):
        first, stop = samples[row], row + 1
        if not first.reused and first.tokens <= TOKENS_PER_CALL:
            while stop < len(samples) and _go_together(samples[row : stop + 1]):
                stop += 1
        yield row, stop
        row = stop


def _go_together(samples: Sequence[Sample]) -> bool:
    lengths = [sample.tokens for sample in samples]
    padded = len(samples) * max(lengths)
    fits = padded <= TOKENS_PER_CALL and padded - sum(lengths) <= PADDING_SHARE * padded
    return fits and not samples[-1].reused and (samples[-1].embeds is None) == (samples[0].embeds is None)
