"""Greedy choice where the logits are: by a small graph that ships with the package."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ... import graphs
from ...graphs.contract import ARGMAX
from ..errors import ProviderError, first_line
from ..memory.bound import Bound
from .call import turn

if TYPE_CHECKING:
    import onnxruntime as ort

    from ..devices.device import Provider
    from ..memory.buffer import Storage


def open_argmax(providers: list[Provider]) -> ort.InferenceSession:
    """The graph on the providers that the decoder runs on.

    Raises:
        ProviderError: they do not run it.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        graph = files(graphs).joinpath(ARGMAX).read_bytes()
        return ort.InferenceSession(graph, options, providers=providers, enable_fallback=False)
    except Exception as error:
        raise _failed(error) from error


class Argmax:
    """The graph, bound to one place of logits and to tokens that are never chosen."""

    def __init__(self, session: ort.InferenceSession, logits: ort.OrtValue, never: NDArray[np.int64], storage: Storage) -> None:
        bias = np.zeros(logits.shape()[-1], np.float32)
        bias[never] = -np.inf
        self._session, self._bound = session, Bound(session)
        self._bound.input("logits", logits)
        self._bound.input("bias", storage.tensor(bias))
        for name in ("token_ids", "total"):
            self._bound.binding.bind_output(name, "cpu")

    def __call__(self) -> tuple[list[int], NDArray[np.float32]]:
        """The best token of every row, and the sum of its logits, which is finite only if they are."""
        try:
            with turn(self._session):
                self._session.run_with_iobinding(self._bound.binding)
        except Exception as error:
            raise _failed(error) from error
        ids, total = (value.numpy() for value in self._bound.binding.get_outputs())
        return ids[:, 0].tolist(), total


def _failed(error: Exception) -> ProviderError:
    """What to raise for one of ONNX Runtime's errors, which share no base but Exception."""
    reason = first_line(error)
    return ProviderError(f"Tokens cannot be chosen on the GPU ({reason:.300}). Use the GPU option argmax=false.")
