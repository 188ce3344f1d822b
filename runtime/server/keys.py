"""API keys: all but a few addresses ask for one, where there are any."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from .problem import Problem


class Keys:
    """Around an app."""

    def __init__(self, app: ASGIApp, keys: Collection[str], free: Collection[str], refused: Callable[[Problem], object]) -> None:
        """`free` are the paths that need no key; `refused` counts those who are not let in."""
        self._app, self._free, self._refused = app, frozenset(free), refused
        self._digests = [_digest(key) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._digests and self._path(scope) not in self._free:
            given = Headers(scope=scope).get("authorization", "")
            if not self._fits(given):
                problem = Problem(401, _WRONG if given else _MISSING, "invalid_api_key")
                self._refused(problem)
                await problem.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _fits(self, given: str) -> bool:
        """Whether it is one of the keys, in a time that tells nothing of them: all are compared, by digests of one length."""
        scheme, _, key = given.partition(" ")
        digest = _digest(key.strip())
        same = [hmac.compare_digest(digest, own) for own in self._digests]
        return any(same) and scheme.lower() == "bearer"

    @staticmethod
    def _path(scope: Scope) -> str:
        """Where an app is mounted in another, the path behind that place."""
        return str(scope["path"]).removeprefix(scope.get("root_path", ""))


_MISSING = "This server asks for an API key. Send it as Authorization: Bearer …"
_WRONG = "The API key is wrong. Send one that this server was started with, as Authorization: Bearer …"


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
