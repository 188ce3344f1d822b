"""IDEFICS' images: gated layers of the decoder look at their keys and values, which are computed once for a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...graphs.contract import key_value_names
from ..memory.bound import Bound
from ..memory.buffer import Buffer
from ..memory.gated_cache import GatedCache
from ..sample import Sample
from .call import run
from .engine import Engine

if TYPE_CHECKING:
    import onnxruntime as ort


@dataclass(frozen=True)
class GatedSight:
    """Which of their images the tokens of some prompts see, and those images' keys and values."""

    seen: NDArray[np.int64]
    """[rows, tokens, num_images]"""
    cross: dict[str, Buffer]
    """[rows, heads, num_images × image_seq_len, head_dim] each, by the names of the decoder's inputs."""

    def between(self, begin: int, end: int) -> GatedSight:
        """The same for tokens begin to end."""
        return replace(self, seen=self.seen[:, begin:end])


class IdeficsEngine(Engine):
    """The four graphs of IDEFICS."""

    def embed(self, ids: NDArray[np.int64]) -> Buffer:
        batch, seq = ids.shape
        hidden = self.sizes.hidden_size
        embeds = self.storage.buffer(batch, 1, seq, hidden)
        bound = Bound(self.sessions.embedding)
        self._bind(bound, "input_ids", ids)
        bound.output("inputs_embeds", embeds.rows(0, batch, (batch, seq, hidden)))
        run("embedding", self.sessions.embedding, bound.binding)
        return embeds

    def bind_tokens(self, bound: Bound, ids: ort.OrtValue, batch: int) -> None:  # noqa: ARG002
        bound.input("input_ids", ids)

    def embed_ids(self, samples: Sequence[Sample], features: Sequence[Buffer], begin: int, end: int) -> Buffer:  # noqa: ARG002
        ids = np.zeros((len(samples), end - begin), np.int64)
        for row, sample in enumerate(samples):
            piece = sample.ids[begin:end]
            ids[row, : len(piece)] = piece
        return self.embed(ids)

    def new_cache(self, batch: int, capacity: int) -> GatedCache:
        return GatedCache(self.sizes, self.storage, batch, capacity)

    def look(self, samples: Sequence[Sample], features: Sequence[Buffer]) -> GatedSight:
        """A row with fewer images than others has zeros in their place, which no token sees; without any, one stands there."""
        rows, num_images = self.sizes.image_seq_len, max(1, *(len(sample.tiles) for sample in samples))
        seen = np.zeros((len(samples), max(sample.tokens for sample in samples), num_images), np.int64)
        together = self.storage.buffer(len(samples), 1, num_images * rows, self.sizes.vision_width)
        rest = iter(features)
        for row, sample in enumerate(samples):
            if sample.seen is not None:
                seen[row, : sample.tokens, : len(sample.tiles)] = sample.seen
            for image in range(len(sample.tiles)):
                together.copy(row, next(rest), 0, 0, rows, image * rows)
        return GatedSight(seen, self._cross(together))

    def keep_sight(self, cache: Any, first_row: int, samples: Sequence[Sample], sight: Any) -> None:
        for row, sample in enumerate(samples):
            cache.see(first_row + row, sight.cross, row, np.flatnonzero(sight.seen[row, sample.tokens - 1]))

    def bind_images(
        self, bound: Bound, cache: Any, first_row: int, batch: int, seq: int, sight: Any = None, first: int = 0
    ) -> None:
        if sight is None:
            seen = np.repeat(cache.seen[first_row : first_row + batch, None], seq, axis=1)
            cache.bind_images(bound, first_row, batch)
        else:
            seen = np.ascontiguousarray(sight.seen[first : first + batch, :seq])
            for name, buffer in sight.cross.items():
                bound.input(name, buffer.rows(first, first + batch))
        self._bind(bound, "image_attention_mask", seen)

    def _cross(self, features: Buffer) -> dict[str, Buffer]:
        """Keys and values of images whose features are [rows, 1, num_images × image_seq_len, vision_width]."""
        batch, _, rows, width = features.shape
        sizes, session = self.sizes, self.sessions.cross
        assert session is not None
        found = {
            name: self.storage.buffer(batch, sizes.num_key_value_heads, rows, sizes.head_dim)
            for name in key_value_names(sizes.num_cross_layers, "cross")
        }
        bound = Bound(session)
        bound.input("image_features", features.rows(0, batch, (batch, rows, width)))
        for name, buffer in found.items():
            bound.output(name, buffer.rows(0, batch))
        run("cross", session, bound.binding)
        return found
