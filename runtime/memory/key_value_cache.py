"""The decoder's key/value cache: one buffer per layer and part, bound as past and as present at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ...graphs.contract import ModelSizes, key_value_names
from .bound import Bound
from .buffer import Buffer, Storage

GROWTH = 256
"""Tokens of room that are added at least when a cache is full."""


class KeyValueCache:
    """Keys and values of `batch` rows with room for `capacity` tokens each, and how many each row holds.

    Feeding the cache as arrays and taking it back would copy all of it at every token; with one buffer on both sides the
    graph writes the new token in place. What lies after a row's tokens is never looked at, so to forget tokens is to lower
    their number, which only this class does.

    Attributes:
        tokens: how many each row holds, int64 [batch]; to be read only.
        bound_as: another object as soon as what is bound of the cache is other memory.
    """

    def __init__(self, sizes: ModelSizes, storage: Storage, batch: int, capacity: int) -> None:
        self._sizes, self._storage = sizes, storage
        self.batch, self.capacity = batch, capacity
        self.tokens: NDArray[np.int64] = np.zeros(batch, np.int64)
        self._buffers = {name: self._buffer(capacity) for name in key_value_names(sizes.num_layers, "past_key_values")}
        self.peak_bytes, self.bound_as = self.nbytes, object()

    @property
    def nbytes(self) -> int:
        """What the buffers take."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def bind(self, bound: Bound, first_row: int, batch: int) -> None:
        """Bind some rows of every buffer as past input and as present output."""
        for name, buffer in self._buffers.items():
            value = buffer.rows(first_row, first_row + batch)
            bound.input(name, value)
            bound.output(name.replace("past_key_values", "present"), value)

    @staticmethod
    def first_capacity(prompt: int, whole: int) -> int:
        """Room to begin with for a prompt of so many tokens that may grow to so many."""
        return min(whole, prompt + GROWTH)

    def add(self, first_row: int, new: NDArray[np.int64]) -> None:
        """Count the tokens, int64 [rows], that a graph has just written after those of some rows."""
        self.tokens[first_row : first_row + len(new)] += new

    def keep(self, row: int, tokens: int) -> None:
        """Count so many of the tokens that were written in a row; the others are forgotten."""
        self.tokens[row] = tokens

    def reserve(self, tokens: int, limit: int) -> None:
        """Make room for that many tokens a row, and for some more up to a limit; buffer by buffer, to need little memory."""
        if tokens <= self.capacity:
            return
        capacity = max(tokens, min(limit, max(self.capacity + GROWTH, self.capacity * 5 // 4)))
        self.bound_as = object()
        try:
            for name, old in self._buffers.items():
                new = self._buffer(capacity)
                for row, held in enumerate(self.tokens.tolist()):
                    new.copy(row, old, row, 0, held)
                self._buffers[name] = new
        except BaseException:  # out of memory, or Ctrl-C: buffers of two sizes would be of no use to anybody
            self.tokens[:], self.capacity = 0, 1
            self._buffers = {name: self._buffer(1) for name in self._buffers}
            raise
        self.capacity = capacity
        self.peak_bytes = max(self.peak_bytes, self.nbytes)

    def reshape(self, batch: int, capacity: int) -> None:
        """Have so many rows with room for so many tokens each, of which the first keep theirs. Nothing is lost where the memory
        does not hold both the old and the new buffers.
        """
        kept = min(batch, self.batch)
        assert int(self.tokens[:kept].max(initial=0)) <= capacity, "the rows that stay fit"
        new = type(self)(self._sizes, self._storage, batch, capacity)
        for row in range(kept):
            new.take_from(row, self, row)
        peak = max(self.peak_bytes, new.nbytes)
        self.__dict__.update(new.__dict__)
        self.peak_bytes = peak

    def copy_row(
        self, row: int, source_row: int, source: KeyValueCache | None = None, start: int = 0, stop: int | None = None
    ) -> None:
        """Copy tokens start:stop of another row, here or in another cache; the caller knows that the first `start` are equal."""
        source = source or self
        stop = int(source.tokens[source_row]) if stop is None else stop
        for name, buffer in self._buffers.items():
            buffer.copy(row, source._buffers[name], source_row, start, stop)
        self.keep(row, stop)

    def take(self, row: int, source_row: int) -> None:
        """Make a row the copy of another, with all that its next tokens need."""
        self.take_from(row, self, source_row)

    def take_from(self, row: int, source: Self, source_row: int) -> None:
        """The same from another cache."""
        self.copy_row(row, source_row, source)

    @property
    def token_bytes(self) -> int:
        """What a token's keys and values take in one row."""
        return sum(buffer.nbytes for buffer in self._buffers.values()) // (self.batch * self.capacity)

    def like(self, batch: int, capacity: int) -> KeyValueCache:
        """An empty cache of the same model, for tokens' keys and values alone."""
        return KeyValueCache(self._sizes, self._storage, batch, capacity)

    def reorder(self, first_row: int, sources: Sequence[int], start: int) -> None:
        """Rows first_row, first_row + 1, … become what rows first_row + sources[0], … were; all are equal before `start`."""
        pending = {row: source for row, source in enumerate(sources) if row != source}
        aside: KeyValueCache | None = None
        while pending:
            row = next((row for row in pending if row not in pending.values()), None)
            if row is None:  # the rows that are left go round: one of them is put aside
                row = next(iter(pending))
                aside = aside or self.like(1, self.capacity)
                aside.copy_row(0, first_row + row, self, start)
                pending = {other: -1 if source == row else source for other, source in pending.items()}
            source = pending.pop(row)
            if source < 0:
                assert aside is not None
                self.copy_row(first_row + row, 0, aside, start)
            else:
                self.copy_row(first_row + row, first_row + source, start=start)

    def _buffer(self, capacity: int) -> Buffer:
        return self._storage.buffer(self.batch, self._sizes.num_key_value_heads, capacity, self._sizes.head_dim)
