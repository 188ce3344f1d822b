"""stdin, stdout and stderr of a program, whatever they are set to: nothing that is typed, read or answered breaks them."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_STREAMS = {"stdin": ("r", "replace"), "stdout": ("w", "replace"), "stderr": ("w", "backslashreplace")}
"""How each is opened, and what becomes of letters that its encoding does not have and bytes that are no letters in it."""


def prepare() -> None:
    """Replace what an encoding does not have, and open those that are closed: a file would get their number, and what C
    libraries print.
    """
    for name, (mode, errors) in _STREAMS.items():
        stream = getattr(sys, name)
        if stream is None or stream.closed:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8", errors=errors))  # noqa: SIM115, PTH123  open until the program ends
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def raised_in(function: Callable[..., object], error: BaseException) -> bool:
    """Whether an exception comes out of a function's own lines, such as a write to a stream that only it writes to."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code is getattr(function, "__code__", None)


def give_up() -> None:
    """Drop what a stream holds that cannot be written, by a full disk or a terminal that is gone."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # else Python tries again, and fails, as it ends


@contextmanager
def dropping() -> Iterator[None]:
    """Write remarks: a full disk behind stderr does not end hours of work."""
    try:
        yield
    except OSError:
        give_up()


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON that stdout can write without replacing anything: with other letters escaped if it does not have them."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text
