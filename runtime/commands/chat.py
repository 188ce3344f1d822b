"""The command `chat`: a conversation in a terminal, or over pipes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from .opening import limit_pixels, open_model, picture
from .options import (
    device_option,
    generation_option,
    gpu_option,
    grammar_option,
    json_schema_option,
    max_new_tokens_option,
    model_option,
    options_of,
    pixel_option,
    regex_option,
)
from .output import say

_LONGEST_LINE = 1 << 20


@click.command()
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@model_option
@device_option
@gpu_option
@max_new_tokens_option
@generation_option
@json_schema_option
@regex_option
@grammar_option
@pixel_option
def chat(
    images: tuple[str, ...],
    model: str | None,
    device: str,
    gpu: tuple[str, ...],
    max_new_tokens: int | None,
    chosen: tuple[str, ...],
    json_schema: Path | None,
    regex: str | None,
    grammar: Path | None,
    max_image_pixels: int | None,
) -> None:
    """Talk about the IMAGEs, and more as you go; /help lists the commands."""
    options = options_of(chosen, max_new_tokens=max_new_tokens, json_schema=json_schema, regex=regex, grammar=grammar)
    if "-" in images:
        raise click.UsageError("stdin holds the conversation here, so no image can be read from it. Give the image's path.")
    from .console import Console

    limit_pixels(max_image_pixels)
    opened = open_model(model, device, gpu)
    console = Console(opened.chat(**options), lambda piece: click.echo(piece, nl=False), say, allow_urls=True)
    console.images = [picture(image) for image in images]
    if sys.stdin.isatty():
        say("/help lists the commands, Ctrl-D leaves.")
        with _line_editing():
            console.take_all(lambda: _line_of(lambda: input("> ")))
    else:
        console.take_all(lambda: _line_of(_read_line))


def _line_of(read: Callable[[], str]) -> str:
    try:
        return read()
    except OSError as error:  # a terminal that is gone, or a stdin that is open for writing only
        raise click.ClickException(
            f"The input cannot be read ({error.strerror}). Give lines on stdin, or use a terminal."
        ) from error


def _read_line() -> str:
    """The next line of stdin; an endless one does not fill the memory."""
    line = sys.stdin.readline(_LONGEST_LINE)
    if not line:
        raise EOFError
    if len(line) == _LONGEST_LINE and not line.endswith("\n"):
        raise click.ClickException(f"A line of the input has more than {_LONGEST_LINE:,} letters. Write shorter messages.")
    return line


@contextmanager
def _line_editing() -> Iterator[None]:
    """Arrow keys and a history that outlives the program, where Python has readline."""
    try:
        import readline
    except ModuleNotFoundError:  # Windows: the terminal edits lines itself
        yield
        return
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "idefics2-onnx"
    with suppress(OSError):
        readline.read_history_file(state / "history")
    try:
        yield
    finally:
        with suppress(OSError):
            state.mkdir(parents=True, exist_ok=True)
            readline.set_history_length(1000)
            readline.write_history_file(state / "history")
