"""JSON from strangers, bounded, and JSON for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

MOST_PIECES = 100_000
"""Brackets, commas and colons of a body, which no other thread runs beside while they are read. Pictures and texts have few."""

PIECE_BYTES = 64
"""What each of them may take in memory: an object of three, {"a":1}, has 184 bytes."""

DEEPEST = 100
"""Lists and objects inside one another: whatever walks through them by calling itself ends long before Python's limit."""


class NotJsonError(ValueError):
    """What it says is no JSON that is taken."""


def read_json(content: bytes) -> Any:
    """The value; NotJsonError says in one sentence why there is none."""
    if (pieces := _pieces(content)) > MOST_PIECES:
        raise NotJsonError(f"The JSON has {pieces:,} brackets, commas and colons, more than {MOST_PIECES:,}. Send less at once.")
    try:
        value = json.loads(content, parse_constant=_no_constant)
        if _depth(value) > DEEPEST:
            raise RecursionError
        return value
    except RecursionError:
        raise NotJsonError(f"The JSON has more than {DEEPEST} lists and objects inside one another. Send it flatter.") from None
    except UnicodeDecodeError as error:
        raise NotJsonError(f"The body is not UTF-8 at byte {error.start}. Send JSON in UTF-8.") from None
    except json.JSONDecodeError as error:
        raise NotJsonError(f"The body is not JSON at character {error.pos} ({error.msg}). Send valid JSON.") from None
    except ValueError as error:  # a number of thousands of digits, or a constant
        raise NotJsonError(f"The body is not JSON ({str(error)[:100]}). Send valid JSON.") from None


async def read_json_within(take: Callable[[int], None], content: bytes) -> Any:
    """The same in a thread; `take` gets the bytes that the value takes before it is there, and raises where they are too many."""
    take(PIECE_BYTES * min(MOST_PIECES, await run_in_threadpool(_pieces, content)))
    return await run_in_threadpool(read_json, content)


def _pieces(content: bytes) -> int:
    return sum(map(content.count, (b"[", b"{", b",", b":")))


def _depth(value: Any) -> int:
    """How many lists and objects lie inside one another, counted to one more than may."""
    depth, level = 0, [value]
    while depth <= DEEPEST and (level := [one for one in level if isinstance(one, list | dict)]):
        depth += 1
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return depth


def json_bytes(value: Any) -> bytes:
    """JSON in UTF-8; halves of characters that a request held become question marks."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(json_bytes(value), status, headers, "application/json")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON's")
