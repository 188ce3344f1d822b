"""What commands say: results on stdout, remarks and progress on stderr."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from . import standard_streams


def say(line: str) -> None:
    with standard_streams.dropping():
        click.echo(line, err=True)


def as_bytes(count: int) -> str:
    value, unit = float(count), "bytes"
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:,.0f} {unit}" if unit == "bytes" else f"{value:,.1f} {unit}"


class Bars:
    """Progress bars on stderr, one after another; an export.Listener."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def say(self, line: str) -> None:
        self.finish()
        say(line)

    def start(self, step: str, total: int) -> None:
        self.finish()
        with standard_streams.dropping():
            self._bar = click.progressbar(
                length=total, label=f"{step:10}", file=sys.stderr, show_eta=True, item_show_func=lambda text: text
            )
            self._bar.__enter__()

    def advance(self, done: int, text: str | None = None) -> None:
        """`text` stands behind the bar; without it, how many bytes are done."""
        if self._bar is not None:
            with standard_streams.dropping():
                self._bar.update(done, text or f"{as_bytes(self._bar.pos + done)} of {as_bytes(self._bar.length)}")

    def finish(self) -> None:
        if self._bar is not None:
            with standard_streams.dropping():
                self._bar.__exit__(None, None, None)
            self._bar = None


def check_output(output: Path, force: bool, option: str) -> None:
    from .own_picture import may_replace

    if not force and not may_replace(output):
        raise click.UsageError(
            f"{output} is there and was not drawn here. Choose another with {option}, or overwrite it: --force."
        )
