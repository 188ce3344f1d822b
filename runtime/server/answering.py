"""From a request to its response, for both of OpenAI's interfaces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from .asked import Asked
from .body import Body, read_body
from .disconnect import unless_gone
from .exchange import Exchange
from .json_text import json_response
from .reply import Reply
from .served import Served
from .stream import EventStream, events


async def answer(request: Request, read: Callable[[Served, Body], Asked], kind: type[Reply]) -> Response:
    """Read what is asked, and answer it, whole or as a stream, or say what is wrong.

    What is found wrong before a prompt and its images have been read is a status code, of streams too, unless that takes so long
    that a comment has to keep the connection alive.
    """
    served: Served = request.app.state.served
    exchange = Exchange(request, served, kind.prompt)
    begun = False
    try:
        async with asyncio.timeout_at(exchange.deadline):
            served.check_open()
            served.scheduler.check_room()  # before a body is read for nothing
            exchange.reply = kind(served.name)
            outcome = await unless_gone(request, exchange.work(await _read(request, exchange, read)))
        if outcome is not None:
            return json_response(outcome)
        begun = True
        return EventStream(events(exchange), exchange)
    except Exception as error:
        return exchange.failed(error)
    finally:
        if not begun:
            exchange.end()


async def _read(request: Request, exchange: Exchange, read: Callable[[Served, Body], Asked]) -> Asked:
    body = await read_body(request, exchange.served.settings, exchange.hold)
    return await run_in_threadpool(read, exchange.served, body)
