"""A server without a key is for programs of its own machine, and not for the web pages that are open there.

A page of another site may send forms here, which no browser asks leave for, and with a name of its own that it has point to this
machine it could read the answers, too. So both the name that a request gives this server and the site that it comes from are held
against what is expected.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import shown
from ..outside.hosts import names_this_machine
from .problem import Problem


class OwnSites:
    """Around an app: refuses requests under another host's name, and from pages of other sites that are not allowed."""

    def __init__(self, app: ASGIApp, origins: Collection[str], refused: Callable[[Problem], object]) -> None:
        """`refused` counts them."""
        self._app, self._origins, self._refused = app, frozenset(origins), refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (problem := self._problem(Headers(scope=scope))):
            self._refused(problem)
            await problem.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _problem(self, headers: Headers) -> Problem | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if host and not names_this_machine(_host_name(f"//{host}")):
            return Problem(
                403,
                f"The request is for the host {shown(host, 100)}, and without a key this server answers as localhost only. "
                "Start it with a key, or with --no-auth.",
                "host_not_allowed",
            )
        if origin is None or "*" in self._origins or origin in self._origins or origin.partition("://")[2] == host:
            return None
        return Problem(
            403,
            f"The request comes from a page of {shown(origin, 100)}, which is not allowed. Allow it with --cors, or use a key.",
            "origin_not_allowed",
        )


def _host_name(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""
