"""Rows of the key/value cache while answers come and go: which row is whose, and how they move."""

from __future__ import annotations

from ..memory.key_value_cache import KeyValueCache
from .answer import Answer


def leave(rows: list[Answer], cache: KeyValueCache) -> list[Answer]:
    """Take the answers that ended, and their rows of the cache, out; the order changes."""
    for row in reversed(range(len(rows))):
        if rows[row].finish_reason:
            if row != len(rows) - 1:
                cache.take(row, len(rows) - 1)
            rows[row] = rows[-1]
            rows.pop()
    return rows


def spread(cache: KeyValueCache, prompts: int, beams: int) -> None:
    """Give each of the first rows `beams` rows, side by side; from the end, so that none is overwritten before it is copied."""
    for row in reversed(range(prompts)):
        for beam in range(beams):
            if row * beams + beam != row:
                cache.take(row * beams + beam, row)
