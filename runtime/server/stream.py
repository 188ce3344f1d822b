"""Server-sent events: an answer while it grows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from .json_text import json_bytes
from .request_log import client_left

if TYPE_CHECKING:
    from .exchange import Exchange

_COMMENT = b": still working\n\n"
_DONE = b"data: [DONE]\n\n"
_GRACE = 5.0
"""Seconds after a request's deadline in which its client may still take the event that says so."""


class EventStream(StreamingResponse):
    """Ends what was begun for it, however it ends: at its end, when the client leaves, or when it takes nothing in."""

    def __init__(self, content: AsyncGenerator[bytes, None], exchange: Exchange) -> None:
        super().__init__(
            content, media_type="text/event-stream", headers={"cache-control": "no-cache", "x-accel-buffering": "no"}
        )
        self._events, self._exchange, self._is_whole = content, exchange, False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout_at(self._exchange.deadline + _GRACE):
                await super().__call__(scope, receive, send)
        except TimeoutError:  # it is taken in too slowly
            pass
        finally:
            if not self._is_whole:
                self._exchange.left()
                client_left(scope)
            self._exchange.end()
            await self._events.aclose()

    async def stream_response(self, send: Send) -> None:
        await super().stream_response(send)
        self._is_whole = True


async def events(exchange: Exchange) -> AsyncGenerator[bytes, None]:
    """The events of a request whose prompts were submitted; one that fails ends with an event that says so."""
    reply, answers, asked = exchange.reply, exchange.answers, exchange.asked
    try:
        if (first := reply.first_piece()) is not None:
            for index in range(len(answers.handles) * answers.each):
                yield _event(reply.chunk(index, first))
        async for one in _in_time(answers.pieces(), exchange):
            yield _COMMENT if one is None else _event(reply.chunk(one[0], reply.piece(one[1])))
        found = await answers.results()
        for index, (answer, likely) in enumerate(zip(found, await exchange.likelihoods(found), strict=True)):
            yield _event(reply.chunk(index, reply.last_piece(likely), answer.finish_reason))
        exchange.note_answers(found)
        if asked.include_usage:
            yield _event(reply.last_chunk(**exchange.totals(found)))
        yield _DONE
    except Exception as error:
        yield _event(exchange.problem(error).body)


async def _in_time(
    pieces: AsyncGenerator[tuple[int, str], None], exchange: Exchange
) -> AsyncGenerator[tuple[int, str] | None, None]:
    """The pieces, and None where none came for a while; TimeoutError at the request's deadline."""
    clock = asyncio.get_running_loop().time
    coming: asyncio.Future[tuple[int, str]] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(pieces))
            left = exchange.deadline - clock()
            if left <= 0:
                raise TimeoutError
            done, _ = await asyncio.wait({coming}, timeout=min(left, exchange.served.settings.keep_alive))
            if not done:
                yield None
                continue
            try:
                piece = coming.result()
            except StopAsyncIteration:
                return
            coming = None
            yield piece
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        await pieces.aclose()


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json_bytes(value) + b"\n\n"
