"""One token for every running row, with everything that does not change from step to step bound once."""

from __future__ import annotations

import itertools
import logging
import weakref
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import ProviderError
from ..memory.bound import Bound
from ..memory.host import HostInput, HostOutput
from ..memory.key_value_cache import KeyValueCache
from .argmax import Argmax
from .call import run
from .engine import Engine

if TYPE_CHECKING:
    import onnxruntime as ort

_recordings = itertools.count(1)
_log = logging.getLogger("idefics2_onnx")


class DecodeStep:
    """Steps the first `batch` rows of a cache: good until the cache grows or the number of rows changes.

    Only ids and mask are written and only logits, or the ids they lead to, are read between two steps: nothing of their size is
    allocated. The mask is as wide as the cache, zero after each row's tokens.
    """

    def __init__(
        self,
        engine: Engine,
        cache: KeyValueCache,
        batch: int,
        never: NDArray[np.int64] = np.empty(0, np.int64),  # noqa: B008
    ) -> None:
        """`never`: tokens that `greedy` does not choose."""
        self._engine, self._cache, self.batch, self.capacity, self.never = engine, cache, batch, cache.capacity, never
        storage, hidden = engine.storage, engine.sizes.hidden_size
        self._ids = HostInput((batch, 1), storage)
        self._mask = HostInput((batch, cache.capacity), storage)
        self._one_each = np.ones(batch, np.int64)
        self._slots, self._held = np.arange(cache.capacity), np.zeros((batch, cache.capacity), bool)
        self._logits = HostOutput((batch, 1, engine.sizes.vocab_size), storage)
        self._argmax = None
        if engine.argmax:
            self._argmax = Argmax(engine.argmax, self._logits.value, never, storage)
        embeds = storage.buffer(batch, 1, 1, hidden).rows(0, batch, (batch, 1, hidden))

        self._embedding = Bound(engine.sessions.embedding)
        engine.bind_tokens(self._embedding, self._ids.value, batch)
        self._embedding.output("inputs_embeds", embeds)
        self._decoder = Bound(engine.sessions.decoder)
        self._decoder.input("inputs_embeds", embeds)
        self._decoder.input("attention_mask", self._mask.value)
        self._decoder.input("logit_positions", HostInput((batch, 1), storage).value)
        self._decoder.output("logits", self._logits.value)
        cache.bind(self._decoder, 0, batch)
        engine.bind_images(self._decoder, cache, 0, batch, 1)
        self._recording = self._record() if engine.sessions.gpu_options.cuda_graph else None
        self._recorded = False

    def __call__(self, tokens: list[int]) -> NDArray[np.float32]:
        """Add a token to every row; logits float32 [batch, vocab], good until the next step."""
        self._run(tokens)
        return self._logits.pull()[:, 0]

    def greedy(self, tokens: list[int]) -> list[int] | None:
        """Add a token to every row; the likeliest next ones, or None where choosing is the host's.

        Raises:
            ModelFolderError: the logits are not finite.
        """
        if self._argmax is None:
            return None
        self._run(tokens)
        chosen, total = self._argmax()
        self._engine.check_finite(total)
        return chosen

    def _run(self, tokens: list[int]) -> None:
        held = self._cache.tokens[: self.batch]
        self._ids.array[:, 0] = tokens
        self._ids.push()
        np.less_equal(self._slots, held[:, None], out=self._held)
        np.copyto(self._mask.array, self._held)
        self._mask.push()
        sessions = self._engine.sessions
        run("embedding", sessions.embedding, self._embedding.binding, interruptible=False)
        if self._recording is not None:
            try:
                with nullcontext() if self._recorded else self._engine.beside_recordings():
                    run("decoder", sessions.decoder, self._decoder.binding, interruptible=False, recording=self._recording)
                self._recorded = True
            except ProviderError as error:  # the step is done again, which writes the same numbers to the same places
                _log.warning("%s Steps go on without a CUDA graph.", error)
                self._recording = None
        if self._recording is None:
            run("decoder", sessions.decoder, self._decoder.binding, interruptible=False)
        self._cache.add(0, self._one_each)

    def _record(self) -> int:
        """A number for the recording of this step, which is good for these places in memory only.

        It is valid only while logit_positions stay 0: the recording keeps the sizes that GatherND read on the host.
        """
        recording = next(_recordings)
        weakref.finalize(self, _release, self._engine.sessions.decoder, recording)
        return recording


def _release(session: ort.InferenceSession, recording: int) -> None:
    with suppress(Exception):  # it was never recorded, or by another thread
        session.release_captured_graph(recording)
