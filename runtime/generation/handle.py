"""A request that a scheduler was given: its text while it grows, and its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from collections.abc import Generator as Pieces
from contextlib import suppress
from threading import Condition
from typing import Any, Literal

from ..errors import Cancelled

State = Literal["queued", "preparing", "ready", "reading", "running", "done", "cancelled", "failed"]
OVER: tuple[State, ...] = ("done", "cancelled", "failed")


class Handle:
    """Safe to use from any thread and, with ``await`` and ``async for``, from any event loop.

    A request is queued; preparing, when its images are read and encoded; ready, until it is admitted; reading, when its prompt
    goes through the decoder; running; and in the end done, cancelled or failed.

    Attributes:
        waiting: how many requests were waiting when it was submitted.
        piece_times: when each of `pieces` came, as `time.perf_counter` counts.
    """

    def __init__(self, cancel: Callable[[Handle], None], waiting: int) -> None:
        self._cancel, self.waiting = cancel, waiting
        self._changed = Condition()
        self._state: State = "queued"
        self._pieces: list[tuple[int, str]] = []
        self.piece_times: list[float] = []
        self._results: Any = None
        self._error: Exception | None = None
        self._watchers: list[Callable[[], None]] = []
        self._when_over: list[Callable[[], object]] = []

    @property
    def state(self) -> State:
        """Where the request stands."""
        return self._state

    def cancel(self) -> None:
        """End it at the next token, and free what it takes. What is over stays as it is."""
        self._cancel(self)

    def when_over(self, call: Callable[[], object]) -> None:
        """Call this once the request is over, at once if it is: from whichever thread ends it, so it must be short."""
        with self._changed:
            if self._state not in OVER:
                self._when_over.append(call)
                return
        call()

    def result(self, timeout: float | None = None) -> Any:
        """The Generation when it is whole; a list of them where num_return_sequences is above 1.

        Raises:
            Cancelled: somebody cancelled it.
            TimeoutError: it was not over after so many seconds; it goes on.
            Idefics2OnnxError: what ended it instead.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._state in OVER, timeout):
                raise TimeoutError(f"The request is {self._state} after {timeout:g} s. Wait longer, or cancel it.")
        return self._outcome()

    def stream(self) -> Pieces[str, None, None]:
        """Pieces of text that join to the answer's, from its beginning on; closed early, it cancels the request."""
        pieces = self.pieces()
        try:
            for _, piece in pieces:
                yield piece
        finally:
            pieces.close()

    def pieces(self) -> Pieces[tuple[int, str], None, None]:
        """The same of all answers of num_return_sequences: which answer, and its piece of text."""
        place, over = 0, False
        try:
            while not over:
                with self._changed:
                    while place == len(self._pieces) and self._state not in OVER:
                        self._changed.wait()
                    new, over = self._pieces[place:], self._state in OVER
                yield from new
                place += len(new)
        finally:
            self.cancel()
        self._outcome()

    def __iter__(self) -> Iterator[str]:
        return self.stream()

    async def apieces(self) -> AsyncGenerator[tuple[int, str], None]:
        """`pieces` for ``async for``."""
        place, over = 0, False
        try:
            with _Watch(self) as changed:
                while not over:
                    changed.clear()
                    with self._changed:
                        new, over = self._pieces[place:], self._state in OVER
                    for piece in new:
                        yield piece
                    place += len(new)
                    if not new and not over:
                        await changed.wait()
        finally:
            self.cancel()
        self._outcome()

    async def __aiter__(self) -> AsyncIterator[str]:
        async for _, piece in self.apieces():
            yield piece

    def __await__(self) -> Pieces[Any, None, Any]:
        """The result; a task that is cancelled cancels the request."""
        return self._when(OVER).__await__()

    async def prepared(self) -> None:
        """Come back when the prompt and its images have been read, or with the error that it found."""
        await self._when(("ready", "reading", "running", *OVER))

    async def _when(self, states: tuple[State, ...]) -> Any:
        try:
            with _Watch(self) as changed:
                while True:
                    changed.clear()
                    if self._state in states:
                        return self._outcome() if self._state in OVER else None
                    await changed.wait()
        except asyncio.CancelledError:
            self.cancel()
            raise

    def _outcome(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._results

    def _enter(self, state: State) -> None:
        """Of the scheduler: note where the request stands."""
        with self._changed:
            if self._state not in OVER:
                self._state = state
                self._tell()

    def _put(self, index: int, piece: str) -> None:
        """Of the scheduler: hand a piece of text over."""
        with self._changed:
            self._pieces.append((index, piece))
            self.piece_times.append(time.perf_counter())
            self._tell()

    def _end(self, results: Any, error: Exception | None) -> None:
        """Of the scheduler: the outcome."""
        with self._changed:
            if self._state in OVER:
                return
            self._results, self._error = results, error
            self._state = "done" if error is None else "cancelled" if isinstance(error, Cancelled) else "failed"
            self._tell()
            calls, self._when_over = self._when_over, []
        for call in calls:
            call()

    def _tell(self) -> None:
        self._changed.notify_all()
        for watcher in self._watchers:
            watcher()


class _Watch:
    """An asyncio.Event that is set whenever a handle changes, for a while."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def __enter__(self) -> asyncio.Event:
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def watcher() -> None:
            with suppress(RuntimeError):  # the loop was closed under it
                loop.call_soon_threadsafe(changed.set)

        self._watcher = watcher
        with self._handle._changed:
            self._handle._watchers.append(watcher)
        return changed

    def __exit__(self, *_: object) -> None:
        with self._handle._changed:
            self._handle._watchers.remove(self._watcher)
