"""Connections whose clients do nothing: uvicorn itself waits for them without end."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE = 15.0
"""Seconds between two looks at a connection."""


class Connection(H11Protocol):
    """Is closed where two looks find the same while no request is answered: half a request's head, or an answer of which nothing
    more was taken in. Each keeps a file open, and what is left of its answer in memory.

    It stands on h11, which bounds what a head may take; uvicorn would choose httptools where that is installed, which does not.
    """

    _seen: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._next.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        is_answering = self.cycle is not None and not self.cycle.response_complete and not self.transport.is_closing()
        found = None if is_answering else (self.cycle, self.transport.get_write_buffer_size())
        if found is not None and found == self._seen:
            self.transport.abort()
            return
        self._seen = found
        self._next = self.loop.call_later(PATIENCE, self._look)
