"""The loop: prefill, then step; and what it takes and returns."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .engine import Engine, ImageFeatures
from .errors import PromptError
from .generation_options import GenerationOptions
from .processor import Sample
from .sampling import ban, greedy

FinishReason = Literal["stop", "length"]


@dataclass
class Timings:
    """Seconds each part of a call took."""

    images: float = 0.0
    """Encoding images."""
    prefill: float = 0.0
    """Reading the prompts, up to the first token."""
    decode: float = 0.0
    """The tokens after the first."""
    steps: int = 0
    """Decoder calls after the prefill."""


@dataclass(frozen=True)
class Generation:
    """One answer."""

    text: str
    """Without special tokens."""
    token_ids: list[int]
    """All generated tokens, the end token included."""
    finish_reason: FinishReason
    """"stop" at an end token, "length" at max_new_tokens."""
    prompt_tokens: int
    timings: Timings = field(default_factory=Timings)
    """Of the whole call, shared by the answers of a batch."""


def generate_tokens(
    engine: Engine, samples: Sequence[Sample], options: GenerationOptions, timings: Timings
) -> Iterator[list[int | None]]:
    """Greedy tokens of a ragged batch, one list per step: each row's token, None for rows that have ended.

    Raises:
        PromptError: a prompt and its answer do not fit the model; before any work.
    """
    longest = max(len(sample.ids) for sample in samples)
    new_tokens = options.new_tokens(longest, engine.sizes.max_positions)
    check_samples(engine, samples, new_tokens)
    bad_words = [word for word in options.banned if max(word) < engine.sizes.vocab_size]
    clock = time.perf_counter
    start = clock()
    tiles = [tile for sample in samples for tile in sample.tiles]
    features = engine.encode_images(tiles) if tiles else None
    timings.images = clock() - start

    start = clock()
    lengths = np.array([len(sample.ids) for sample in samples], np.int64)
    cache = engine.new_cache(len(samples), longest + new_tokens - 1)
    embeds = engine.embed(right_padded(samples), features, feature_rows(samples, features, engine))
    logits = engine.decode(embeds, lengths, cache, lengths[:, None] - 1)[:, 0]
    histories = [list(sample.ids) for sample in samples]
    ended = np.zeros(len(samples), bool)
    ones = np.ones(len(samples), np.int64)
    for step in range(new_tokens):
        ban(logits, histories, bad_words)
        tokens = greedy(logits)
        if step == 0:
            timings.prefill, start = clock() - start, clock()
        timings.decode, timings.steps = (clock() - start if step else 0.0), step
        yield [None if done else int(token) for done, token in zip(ended, tokens, strict=True)]
        ended |= np.isin(tokens, options.eos_token_id)
        if ended.all() or step + 1 == new_tokens:
            return
        for history, token in zip(histories, tokens, strict=True):
            history.append(int(token))
        logits = engine.decode(engine.embed(tokens[:, None]), ones, cache, np.zeros((len(samples), 1), np.int64))[:, 0]


def right_padded(samples: Sequence[Sample]) -> NDArray[np.int64]:
    """Token ids int64 [batch, longest]; what stands behind a row's end is never looked at."""
    ids = np.zeros((len(samples), max(len(sample.ids) for sample in samples)), np.int64)
    for row, sample in enumerate(samples):
        ids[row, : len(sample.ids)] = sample.ids
    return ids


def feature_rows(samples: Sequence[Sample], features: ImageFeatures | None, engine: Engine) -> NDArray[np.int64]:
    """The contract's feature_rows int64 [batch, longest] for samples whose tiles were encoded in order."""
    ids = right_padded(samples)
    rows = np.full_like(ids, -1)
    if features is None:
        return rows
    tile = 0
    for row, sample in enumerate(samples):
        firsts = np.array(features.first_rows[tile : tile + len(sample.tiles)], np.int64)
        rows[row, ids[row] == engine.sizes.image_token_id] = (firsts[:, None] + np.arange(engine.sizes.image_seq_len)).reshape(-1)
        tile += len(sample.tiles)
    return rows


def check_samples(engine: Engine, samples: Sequence[Sample], max_new_tokens: int) -> None:
    """Raise PromptError unless every sample's image tokens match its tiles and its tokens fit the model."""
    sizes = engine.sizes
    for sample in samples:
        found, needed = sample.ids.count(sizes.image_token_id), len(sample.tiles) * sizes.image_seq_len
        if not sample.ids:
            raise PromptError("The prompt is empty: 0 tokens. Give some text.")
        if max(sample.ids) >= sizes.vocab_size or min(sample.ids) < 0:
            raise PromptError(
                f"The prompt has the token {max(sample.ids)}, but the model knows {sizes.vocab_size}. Check the ids."
            )
        if found != needed:
            raise PromptError(
                f"The prompt has {found} image tokens but {len(sample.tiles)} tiles take {needed}. "
                "Use one processor for text and images."
            )
        if sample.tiles and min(min(tile.shape[1:]) for tile in sample.tiles) < sizes.patch_size:
            raise PromptError(f"An image is smaller than one patch of {sizes.patch_size} pixels. Resize images (do_resize=True).")
        total = len(sample.ids) + max_new_tokens
        if total > sizes.max_positions:
            raise PromptError(
                f"The prompt's {len(sample.ids)} tokens and {max_new_tokens} new ones make {total}, more than the model's "
                f"{sizes.max_positions}. Use fewer or unsplit images, a shorter prompt or a smaller max_new_tokens."
            )
