"""IDEFICS' cache: beside tokens' keys and values, those of the images that each row's next tokens see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ...graphs.contract import ModelSizes, key_value_names
from .bound import Bound
from .buffer import Buffer, Storage
from .key_value_cache import KeyValueCache


class GatedCache(KeyValueCache):
    """New tokens see what the last token of their prompt does, mostly one image: only such images' keys and values stay.

    Attributes:
        seen: int64 [batch, slots], 1 where a slot holds an image that the row's new tokens see.
    """

    def __init__(self, sizes: ModelSizes, storage: Storage, batch: int, capacity: int) -> None:
        self.seen: NDArray[np.int64] = np.zeros((batch, 1), np.int64)
        shape = (batch, sizes.num_key_value_heads, sizes.image_seq_len, sizes.head_dim)
        self._cross = {name: storage.buffer(*shape) for name in key_value_names(sizes.num_cross_layers, "cross")}
        super().__init__(sizes, storage, batch, capacity)

    @property
    def nbytes(self) -> int:
        """What the buffers take."""
        return super().nbytes + sum(buffer.nbytes for buffer in self._cross.values())

    def bind_images(self, bound: Bound, first_row: int, batch: int) -> None:
        """Bind the images' keys and values of some rows."""
        for name, buffer in self._cross.items():
            bound.input(name, buffer.rows(first_row, first_row + batch))

    def see(self, row: int, cross: Mapping[str, Buffer], source_row: int, images: NDArray[np.int64]) -> None:
        """Let a row's new tokens see these images of a row of keys and values [rows, heads, image_rows, head_dim]."""
        if len(images) > self.seen.shape[1]:
            self._widen(len(images))
        self.bound_as = object()  # a step's mask is written once
        self.seen[row] = np.arange(self.seen.shape[1]) < len(images)
        rows = self._sizes.image_seq_len
        for name, buffer in self._cross.items():
            for slot, image in enumerate(images.tolist()):
                buffer.copy(row, cross[name], source_row, image * rows, (image + 1) * rows, slot * rows)

    def take_from(self, row: int, source: Self, source_row: int) -> None:
        super().take_from(row, source, source_row)
        if source.seen.shape[1] > self.seen.shape[1]:
            self._widen(source.seen.shape[1])
        self.bound_as = object()
        self.seen[row] = 0
        self.seen[row, : source.seen.shape[1]] = source.seen[source_row]
        for name, buffer in self._cross.items():
            buffer.copy(row, source._cross[name], source_row, 0, source._cross[name].shape[2])

    def _widen(self, slots: int) -> None:
        """Make room for so many images a row."""
        self.seen = np.pad(self.seen, ((0, 0), (0, slots - self.seen.shape[1])))
        for name, old in self._cross.items():
            batch, heads, rows, width = old.shape
            new = self._storage.buffer(batch, heads, slots * self._sizes.image_seq_len, width)
            for row in range(batch):
                new.copy(row, old, row, 0, rows)
            self._cross[name] = new
        self.peak_bytes = max(self.peak_bytes, self.nbytes)
