"""A request's body → its JSON and its uploaded pictures, read in pieces up to a limit whatever its header says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from .budget import Hold
from .form import read_form
from .json_text import NotJsonError, read_json_within
from .problem import Problem
from .settings import Settings


@dataclass(frozen=True)
class Body:
    """What came.

    Attributes:
        value: the JSON; of a form its part `request`, with its other texts.
        uploads: the files in a form's parts `image`.
    """

    value: Any
    uploads: list[bytes] = field(default_factory=list)
    is_form: bool = False


async def read_body(request: Request, settings: Settings, hold: Hold) -> Body:
    """All of it.

    Raises:
        Problem: 400 for what is damaged, 408 for what does not come in time, 413 for too much, 415 for another type.
        ClientDisconnect: the client left.
    """
    if (encoding := request.headers.get("content-encoding", "identity")).lower() != "identity":
        raise Problem(415, f"The body is encoded as {encoding!r:.60}. Send it plain.", "unsupported_encoding")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
    if not is_json and kind != "multipart/form-data":
        raise Problem(
            415, f"The content type is {kind!r:.60}. Send application/json or multipart/form-data.", "unsupported_media_type"
        )
    try:
        async with asyncio.timeout(settings.body_timeout):
            pieces = _pieces(request, settings.max_body, hold)
            if is_json:
                content = b"".join([piece async for piece in pieces])
                return Body(await read_json_within(hold.take, content))
            value, uploads = await read_form(request, pieces, settings, hold)
            return Body(value, uploads, is_form=True)
    except TimeoutError:
        raise Problem(
            408, f"The body did not come within {settings.body_timeout:g} s. Send it faster, or less.", "body_timeout"
        ) from None
    except NotJsonError as error:
        raise Problem(400, str(error), "invalid_json") from error


async def _pieces(request: Request, limit: int, hold: Hold) -> AsyncGenerator[bytes, None]:
    """What is left of a body when this raises is read and dropped by the host, so that clients come to see the answer."""
    total, said = 0, request.headers.get("content-length", "")
    if said.isdecimal() and len(said) < 20 and int(said) > limit:
        raise _too_long(limit)
    async for piece in request.stream():
        total += len(piece)
        if total > limit:
            raise _too_long(limit)
        hold.take(len(piece))
        yield piece


def _too_long(limit: int) -> Problem:
    return Problem(413, f"The body has more than {limit:,} bytes. Send smaller pictures, or fewer.", "body_too_long")
