"""Image features that were computed once, by the content of their tile."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from threading import Lock

import numpy as np

from ..sample import Tile
from .buffer import Buffer

DEFAULT_IMAGE_CACHE = 256 << 20
"""Bytes; an image of the 8B model in four tiles and a whole takes 2.6 MB in half precision."""


class FeatureCache:
    """Least recently used features go first. Safe to share between threads.

    A tile's pixels are what the image and all options of the processor come to, so its digest is the key for both.

    Attributes:
        max_bytes: what the features may take; 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._features: OrderedDict[bytes, Buffer] = OrderedDict()
        self._bytes, self._lock = 0, Lock()

    @property
    def nbytes(self) -> int:
        """What the features take now."""
        return self._bytes

    def get(self, digest: bytes) -> Buffer | None:
        """A tile's features [1, 1, image_seq_len, hidden], or None."""
        with self._lock:
            features = self._features.get(digest)
            if features is not None:
                self._features.move_to_end(digest)
            return features

    def put(self, digest: bytes, features: Buffer) -> None:
        """Keep a tile's features, if they fit at all."""
        with self._lock:
            if features.nbytes > self.max_bytes or digest in self._features:
                return
            self._features[digest] = features
            self._bytes += features.nbytes
            while self._bytes > self.max_bytes:
                self._bytes -= self._features.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Forget all features."""
        with self._lock:
            self._features.clear()
            self._bytes = 0


def tile_digest(tile: Tile) -> bytes:
    """SHA-256 of a tile's size and pixels: strangers' images must not be able to take each other's place."""
    digest = hashlib.sha256(repr(tile.shape).encode())
    digest.update(np.ascontiguousarray(tile).data)
    return digest.digest()
