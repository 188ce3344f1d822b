"""The answers to one request: those of one prompt or of several, as a scheduler gives them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from ..generation.answer import Generation
from ..generation.handle import Handle


class Answers:
    """Of an event loop.

    Attributes:
        handles: one for each prompt, in order; each gives `each` answers.
    """

    def __init__(self, each: int) -> None:
        self.handles: list[Handle] = []
        self.each = each
        self._preparing: asyncio.Future[None] | None = None

    async def prepared(self, seconds: float) -> bool:
        """Whether all prompts and their images have been read within so many seconds; raises what is wrong with them."""
        self._preparing = asyncio.ensure_future(self._prepare())
        done, _ = await asyncio.wait({self._preparing}, timeout=seconds)
        if not done:
            self._preparing.add_done_callback(lambda task: task.cancelled() or task.exception())  # `pieces` raises it
            return False
        self._preparing.result()
        return True

    async def _prepare(self) -> None:
        for handle in self.handles:
            await handle.prepared()

    async def pieces(self) -> AsyncGenerator[tuple[int, str], None]:
        """Which answer, and its next piece of text, as they come; then what ended one of them, raised."""
        coming: asyncio.Queue[tuple[int, str] | Exception | None] = asyncio.Queue()

        async def pass_on(place: int, handle: Handle) -> None:
            try:
                async for index, piece in handle.apieces():
                    coming.put_nowait((place * self.each + index, piece))
                coming.put_nowait(None)
            except Exception as error:
                coming.put_nowait(error)

        tasks = [asyncio.ensure_future(pass_on(place, handle)) for place, handle in enumerate(self.handles)]
        try:
            left = len(tasks)
            while left:
                one = await coming.get()
                if isinstance(one, Exception):
                    raise one
                if one is None:
                    left -= 1
                else:
                    yield one
        finally:
            for task in tasks:
                task.cancel()

    async def results(self) -> list[Generation]:
        """All of them, whole; raises what ended one of them instead."""
        found: list[Generation] = []
        for handle in self.handles:
            result = await handle
            found += result if isinstance(result, list) else [result]
        return found

    def cancel(self) -> None:
        """End those that run; what is over stays."""
        for handle in self.handles:
            handle.cancel()
        if self._preparing is not None:
            self._preparing.cancel()
