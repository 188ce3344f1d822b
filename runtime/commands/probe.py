"""What a folder's graphs make of a small prompt with a small picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine.engine import Engine
from ..sample import Sample


@dataclass(frozen=True)
class Probe:
    """Outputs of all graphs, float32 but for those that stay in the graphs' own type."""

    features: NDArray[Any]
    """[1, 1, image_seq_len, hidden]."""
    embeds: NDArray[Any]
    """[1, 1, tokens, hidden]."""
    prompt_logits: NDArray[np.float32]
    """[1, tokens, vocab], by the graph that reads prompts."""
    step_logits: NDArray[np.float32]
    """[1, 1, vocab], by the decoder for one token after them."""

    @classmethod
    def of(cls, engine: Engine) -> Probe:
        """Run each graph once."""
        sizes = engine.sizes
        side = sizes.image_size or sizes.patch_size * min(sizes.positions_per_side, 4)
        pixels = np.random.default_rng(0).uniform(-1, 1, (3, side, side)).astype(np.float32)
        text = [i for i in range(min(8, sizes.vocab_size)) if i != sizes.image_token_id]
        ids = [*[sizes.image_token_id] * sizes.tokens_per_image, *text]
        sample = Sample(ids, [pixels], seen=np.ones((len(ids), 1), np.int64) if sizes.num_cross_layers else None)
        features = engine.encode_images([pixels])
        embeds = engine.embed_prompts([sample], features, 0, sample.tokens)
        cache = engine.new_cache(1, sample.tokens + 1)
        positions = np.arange(sample.tokens)[None]
        sight = engine.look([sample], features)
        prompt = engine.decode(embeds, np.array([sample.tokens]), cache, positions, graph="prompt", sight=sight)
        engine.keep_sight(cache, 0, [sample], sight)
        step = engine.decode(engine.embed(np.array([text[:1]])), np.array([1]), cache, np.zeros((1, 1), np.int64))
        return cls(features[0].read(), embeds.read(), prompt, step)
