"""One token for every running row, with everything that does not change from step to step bound once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .buffer import Storage
from .cache import KeyValueCache
from .engine import Engine, run

if TYPE_CHECKING:
    import onnxruntime as ort


class DecodeStep:
    """Steps the first `batch` rows of a cache: good until the cache grows or the number of rows changes.

    Only ids and mask are written and only logits read between two steps: nothing of their size is allocated. The mask is as
    wide as the cache, zero behind each row's tokens.
    """

    def __init__(self, engine: Engine, cache: KeyValueCache, batch: int) -> None:
        self._engine, self._cache, self.batch, self.capacity = engine, cache, batch, cache.capacity
        storage, hidden = engine.storage, engine.sizes.hidden_size
        self._ids = _HostInput((batch, 1), storage)
        self._mask = _HostInput((batch, cache.capacity), storage)
        self._slots, self._held = np.arange(cache.capacity), np.zeros((batch, cache.capacity), bool)
        self._logits: NDArray[np.float32] = np.zeros((batch, 1, engine.sizes.vocab_size), np.float32)
        self._logits_value = _value(self._logits)
        embeds = storage.buffer(batch, 1, 1, hidden).rows(0, batch, (batch, 1, hidden))

        self._embedding = engine.sessions.embedding.io_binding()
        self._embedding.bind_ortvalue_input("input_ids", self._ids.value)
        self._embedding.bind_ortvalue_input("feature_rows", _HostInput((batch, 1), storage, -1).value)
        self._embedding.bind_ortvalue_input("image_features", storage.buffer(0, 1, 1, hidden).rows(0, 0, (0, hidden)))
        self._embedding.bind_ortvalue_output("inputs_embeds", embeds)
        self._decoder = engine.sessions.decoder.io_binding()
        self._decoder.bind_ortvalue_input("inputs_embeds", embeds)
        self._decoder.bind_ortvalue_input("attention_mask", self._mask.value)
        self._decoder.bind_ortvalue_input("logit_positions", _HostInput((batch, 1), storage).value)
        self._decoder.bind_ortvalue_output("logits", self._logits_value)
        cache.bind(self._decoder, 0, batch)

    def __call__(self, tokens: list[int]) -> NDArray[np.float32]:
        """Add a token to every row; logits float32 [batch, vocab], good until the next step."""
        held = self._cache.tokens[: self.batch]
        self._ids.array[:, 0] = tokens
        self._ids.push()
        np.less_equal(self._slots, held[:, None], out=self._held)
        np.copyto(self._mask.array, self._held)
        self._mask.push()
        run("embedding", self._engine.sessions.embedding, self._embedding, interruptible=False)
        run("decoder", self._engine.sessions.decoder, self._decoder, interruptible=False)
        held += 1
        return self._logits[:, 0]


class _HostInput:
    """An int64 input that the host writes: the same memory on the CPU, a copy on a device."""

    def __init__(self, shape: tuple[int, int], storage: Storage, fill: int = 0) -> None:
        import onnxruntime as ort

        self.array: NDArray[np.int64] = np.full(shape, fill, np.int64)
        self._on_device = storage.device != "cpu"
        self.value = ort.OrtValue.ortvalue_from_numpy(self.array, storage.device, storage.card)

    def push(self) -> None:
        if self._on_device:
            self.value.update_inplace(self.array)


def _value(array: NDArray[Any]) -> ort.OrtValue:
    import onnxruntime as ort

    return ort.OrtValue.ortvalue_from_numpy(array)
