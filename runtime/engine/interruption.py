"""The end of a graph's run, called from another thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime as ort


class Interruption:
    """Ends one caller's runs at their next operator, and those that it begins later at once. Safe to use from any thread.

    Attributes:
        came: whether it was called for.
    """

    def __init__(self) -> None:
        self.came = False
        self._lock = Lock()
        self._running: list[ort.RunOptions] = []

    def come(self) -> None:
        """Nobody wants the results any more."""
        with self._lock:
            self.came = True
            for options in self._running:
                options.terminate = True

    @contextmanager
    def over(self, options: ort.RunOptions) -> Iterator[None]:
        """While a run with these options goes on, it can be ended."""
        with self._lock:
            options.terminate = self.came
            self._running.append(options)
        try:
            yield
        finally:
            with self._lock:
                self._running.remove(options)
