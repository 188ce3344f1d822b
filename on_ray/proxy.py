"""What Ray Serve's proxy says for a replica that ended with a request: Ray itself says nothing, or cuts the stream off.

    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=idefics2_onnx.on_ray.proxy:middlewares serve run …

The variable is for the processes that start Ray: `serve run`, or `ray start` on each node.
"""

from __future__ import annotations

import json

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..runtime.server.problem import Problem

_LOST = Problem(503, "The replica that had this request has ended. Ask again.", "replica_lost", retry_after=1)


class Ending:
    """Ends what was not answered, or not to its end, with an error in OpenAI's form."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun, ended, streams = False, False, False

        async def passed_on(message: Message) -> None:
            nonlocal begun, ended, streams
            if message["type"] == "http.response.start":
                begun = True
                streams = (b"content-type", b"text/event-stream") in [(name, value[:17]) for name, value in message["headers"]]
            ended = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        await self._app(scope, receive, passed_on)
        if scope["type"] != "http" or ended:
            return
        if not begun:
            await _LOST.response()(scope, receive, send)
        elif streams:
            await send({"type": "http.response.body", "body": b"data: " + json.dumps(_LOST.body).encode() + b"\n\n"})


def middlewares() -> list[Middleware]:
    """As Ray Serve asks for them."""
    return [Middleware(Ending)]
