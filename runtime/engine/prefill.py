"""Reading prompts into the cache, and the logits on the way."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..memory.key_value_cache import KeyValueCache
from ..sample import Sample
from .engine import Engine, Sight
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


def read_prompts(
    engine: Engine, samples: Sequence[Sample], cache: KeyValueCache, timings: Timings, *, everywhere: bool = False
) -> Iterator[PromptLogits]:
    """Run the decoder over prompts, each after what its row of the cache holds.

    Short prompts of about one length go through together, long ones in pieces.

    Args:
        samples: row by row of the cache, shorter ones first.
        everywhere: give logits of every token; else the last ones, and of pieces in between something of no meaning.
    """
    clock = time.perf_counter
    start = clock()
    features = encoded = engine.encode_images([t for s in samples for t in s.tiles if t.ndim == 3], timings)
    if any(tile.ndim == 2 for sample in samples for tile in sample.tiles):
        fresh = iter(encoded)
        features = [next(fresh) if t.ndim == 3 else engine.features_from(t) for s in samples for t in s.tiles]
    timings.images += clock() - start
    firsts = np.cumsum([0, *(len(sample.tiles) for sample in samples)])
    sight: Sight | None = None
    for row, stop, begin, end in _calls(samples):
        together, own = samples[row:stop], features[firsts[row] : firsts[stop]]
        if begin == together[0].reused:  # the first piece
            sight = engine.look(together, own)
        embeds = engine.embed_prompts(together, own, begin, end)
        new = np.array([min(end, sample.tokens) - begin for sample in together], np.int64)
        every = np.broadcast_to(np.arange(new.max()), (len(new), int(new.max())))
        positions = np.ascontiguousarray(every) if everywhere else new[:, None] - 1
        logits = engine.decode(embeds, new, cache, positions, row, "prompt", sight and sight.between(begin, end))
        engine.check_finite(logits, own, "prompt")
        if end == max(sample.tokens for sample in together):  # the last piece
            engine.keep_sight(cache, row, together, sight)
        timings.prompt_tokens += int(new.sum())
        yield PromptLogits(row, begin, logits)


def images_at_once(samples: Sequence[Sample]) -> int:
    """Most images that one decoder call on these prompts is given, of the same number for each row and one at least.

    Args:
        samples: as `read_prompts` takes them.
    """
    return max((stop - row) * max(1, *(len(sample.tiles) for sample in samples[row:stop])) for row, stop, _, _ in _calls(samples))


def _calls(samples: Sequence[Sample]) -> Iterator[tuple[int, int, int, int]]:
    """Rows from, to, and tokens from, to of each decoder call."""
    row = 0
    while row < len(samples):
        first, stop = samples[row], row + 1
        if first.reused or first.tokens > TOKENS_PER_CALL:
            for begin in range(first.reused, first.tokens, TOKENS_PER_CALL):
                yield row, stop, begin, min(first.tokens, begin + TOKENS_PER_CALL)
        else:
            while stop < len(samples) and _go_together(samples[row : stop + 1]):
                stop += 1
            yield row, stop, 0, max(sample.tokens for sample in samples[row:stop])
        row = stop


def _go_together(samples: Sequence[Sample]) -> bool:
    lengths = [sample.tokens for sample in samples]
    padded = len(samples) * max(lengths)
    fits = padded <= TOKENS_PER_CALL and padded - sum(lengths) <= PADDING_SHARE * padded
    return fits and not samples[-1].reused and (samples[-1].embeds is None) == (samples[0].embeds is None)
