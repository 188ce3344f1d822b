"""Idefics2's images: their features stand among the embeddings, in the place of image tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..image_tokens import image_places
from ..memory.bound import Bound
from ..memory.buffer import Buffer
from ..memory.host import HostInput
from ..sample import Sample
from .call import run
from .engine import Engine

if TYPE_CHECKING:
    import onnxruntime as ort


class Idefics2Engine(Engine):
    """The three graphs of Idefics2."""

    def embed(self, ids: NDArray[np.int64]) -> Buffer:
        return self._merge(ids, self._feature_buffer(0), np.full_like(ids, -1))

    def bind_tokens(self, bound: Bound, ids: ort.OrtValue, batch: int) -> None:
        hidden = self.sizes.hidden_size
        bound.input("input_ids", ids)
        bound.input("feature_rows", HostInput((batch, 1), self.storage, -1).value)
        bound.input("image_features", self.storage.buffer(0, 1, 1, hidden).rows(0, 0, (0, hidden)))

    def embed_ids(self, samples: Sequence[Sample], features: Sequence[Buffer], begin: int, end: int) -> Buffer:
        ids = np.zeros((len(samples), end - begin), np.int64)
        rows = np.full_like(ids, -1)
        used = tile = 0
        for row, sample in enumerate(samples):
            piece = np.array(sample.ids[begin:end], np.int64)
            ids[row, : len(piece)] = piece
            read = len(image_places(sample.ids[sample.reused : begin], self.sizes))
            places = image_places(piece, self.sizes)
            rows[row, places] = tile * self.sizes.image_seq_len + read + np.arange(len(places))
            used += len(places)
            tile += len(sample.tiles)
        return self._merge(ids, self.gather(features) if used else self._feature_buffer(0), rows)

    def look(self, *_: Any) -> None:
        return None

    def keep_sight(self, *_: Any) -> None: ...

    def bind_images(self, *_: Any, **__: Any) -> None: ...

    def gather(self, features: Sequence[Buffer]) -> Buffer:
        """Features of several tiles, one after another: [tiles, 1, image_seq_len, hidden]."""
        if len(features) == 1:
            return features[0]
        together = self._feature_buffer(len(features))
        for row, part in enumerate(features):
            together.copy(row, part, 0, 0, self.sizes.image_seq_len)
        return together

    def _merge(self, ids: NDArray[np.int64], features: Buffer, rows: NDArray[np.int64]) -> Buffer:
        """Embeddings [batch, 1, seq, hidden] of ids and, by the contract's feature_rows, of what stands in their place."""
        batch, seq = ids.shape
        hidden, tiles = self.sizes.hidden_size, features.shape[0]
        embeds = self.storage.buffer(batch, 1, seq, hidden)
        bound = Bound(self.sessions.embedding)
        self._bind(bound, "input_ids", ids)
        self._bind(bound, "feature_rows", rows)
        bound.input("image_features", features.rows(0, tiles, (tiles * self.sizes.image_seq_len, hidden)))
        bound.output("inputs_embeds", embeds.rows(0, batch, (batch, seq, hidden)))
        run("embedding", self.sessions.embedding, bound.binding)
        return embeds
