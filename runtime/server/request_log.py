"""A line in the log for each request, under an id that its response has, too. Of texts and pictures it says nothing."""

from __future__ import annotations

import re
import time
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import shown
from .problem import log

_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_ID_KEY, _NOTE_KEY, _LEFT_KEY = (f"idefics2_onnx.{name}" for name in ("request_id", "note", "left"))


class RequestLog:
    """Around an app."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        scope[_ID_KEY] = given if _ID.fullmatch(given) else uuid.uuid4().hex
        started, status = time.perf_counter(), 500

        async def tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = scope[_ID_KEY]
            await send(message)

        try:
            await self._app(scope, receive, tagged)
        finally:
            log.info(
                "id=%s %s %s %d %.3f s%s",
                scope[_ID_KEY],
                scope["method"],
                shown(scope["path"], 100),
                499 if scope.get(_LEFT_KEY) else status,
                time.perf_counter() - started,
                f" ({scope[_NOTE_KEY]})" if _NOTE_KEY in scope else "",
            )


def request_id(request: Request) -> str:
    return str(request.scope.get(_ID_KEY, "-"))


def note(request: Request, words: str) -> None:
    """Have the line say something more."""
    request.scope[_NOTE_KEY] = words


def client_left(scope: Any) -> None:
    """Have the line say 499: the client went before the answer was whole."""
    scope[_LEFT_KEY] = True
