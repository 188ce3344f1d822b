"""What code asks of the disk, the network and other programs, noticed as it asks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_WATCHED = ("open", "os.", "socket.", "subprocess.", "pathlib.", "glob.", "shutil.", "urllib.", "http.", "ctypes.", "tempfile.")
_STAT = ("stat", "lstat", "access", "readlink")
"""What the interpreter raises no audit event for."""
_recorders: list[list[str]] = []


@contextmanager
def touches() -> Iterator[list[str]]:
    """Every file, socket, look-up or program that is asked for in the block, by this whole process."""
    found: list[str] = []
    real = {name: getattr(os, name) for name in _STAT}

    def noticed(name: str):
        def asked(*arguments, **options):
            found.append(f"os.{name} {arguments[:1]}")
            return real[name](*arguments, **options)

        return asked

    for name in _STAT:
        setattr(os, name, noticed(name))
    _recorders.append(found)
    try:
        yield found
    finally:
        _recorders.remove(found)
        for name, function in real.items():
            setattr(os, name, function)


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _recorders and event.startswith(_WATCHED):
        for each in _recorders:
            each.append(f"{event} {arguments[:2]!r:.200}")


sys.addaudithook(_hook)  # for as long as the process lives: there is no way to take one off
