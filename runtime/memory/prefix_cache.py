"""Keys and values of prompts that were read once, for prompts that begin alike."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

from ...graphs.contract import ModelSizes
from ..image_tokens import told_apart, told_by_sight, whole_tiles
from ..sample import Sample, common_length
from .feature_cache import tile_digest
from .key_value_cache import KeyValueCache

Key = tuple[object, ...]
"""A prompt's tokens; an image's are told apart by the image."""


@dataclass(frozen=True)
class _Entry:
    key: Key
    cache: KeyValueCache


class PrefixCache:
    """Least recently used prompts go first. Safe to share between threads.

    Attributes:
        max_bytes: what the keys and values may take; 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._lock = Lock()

    @property
    def nbytes(self) -> int:
        """What the keys and values take now."""
        with self._lock:
            return sum(entry.cache.nbytes for entry in self._entries.values())

    def find(self, key: Key) -> tuple[KeyValueCache, int] | None:
        """A cache of one row that begins like a prompt, and for how many tokens; the last one is left, for its logits."""
        with self._lock:
            shared = {entry.key: whole_tiles(key, common_length(entry.key, key[:-1])) for entry in self._entries.values()}
            best = max(shared, key=lambda k: shared[k], default=None)
            if best is None or not shared[best]:
                return None
            self._entries.move_to_end(best)
            return self._entries[best].cache, shared[best]

    def put(self, key: Key, cache: KeyValueCache, row: int, tokens: int) -> None:
        """Keep a copy of a row's keys and values, if it fits at all, in place of shorter ones it begins with."""
        size = cache.token_bytes * tokens
        with self._lock:
            if size > self.max_bytes or any(entry.key[:tokens] == key for entry in self._entries.values()):
                return
        own = cache.like(1, tokens)
        own.copy_row(0, row, cache, stop=tokens)
        with self._lock:
            for other in [other for other in self._entries if key[: len(other)] == other]:
                del self._entries[other]
            self._entries[key] = _Entry(key, own)
            while sum(entry.cache.nbytes for entry in self._entries.values()) > self.max_bytes:
                self._entries.popitem(last=False)


def prompt_key(sample: Sample, sizes: ModelSizes) -> Key | None:
    """The key of a whole prompt; None for embeddings, which have no tokens."""
    if sample.embeds is not None:
        return None
    digests = [tile_digest(tile) for tile in sample.tiles]
    return told_apart(sample.ids, digests, sizes) if sample.seen is None else told_by_sight(sample.ids, digests, sample.seen)
