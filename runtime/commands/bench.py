"""The command `bench`: how fast a folder is here, as a table, JSON or picture."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from .opening import open_model
from .options import device_option, force_option, gpu_option
from .output import Bars, check_output
from .standard_streams import json_text


@click.command()
@click.argument("folder", required=False)
@device_option
@gpu_option
@click.option("--image", "sizes", multiple=True, metavar="WxH", help="Size of an image [default: 378x378, 980x735, 1600x1200].")
@click.option("--prompt-tokens", multiple=True, type=click.IntRange(1), help="Length of a prompt [default: 32, 256, 1024].")
@click.option("--batch", "batches", multiple=True, type=click.IntRange(1), help="Prompts at once [default: 1, 4].")
@click.option("--new-tokens", type=click.IntRange(2), default=32, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Medians are taken of so many.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the table, too (needs the extra [bench]).")
@force_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench(
    folder: str | None,
    device: str,
    gpu: tuple[str, ...],
    sizes: tuple[str, ...],
    prompt_tokens: tuple[int, ...],
    batches: tuple[int, ...],
    new_tokens: int,
    rounds: int,
    plot: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure a model FOLDER here: images, prompts and answers of several sizes."""
    from . import speeds

    pixels = [_size(text) for text in sizes or ("378x378", "980x735", "1600x1200")]
    if plot is not None:
        plot = plot if plot.suffix else plot.with_name(f"{plot.name}.png")  # as matplotlib does
        check_output(plot, force, "--plot")
    opened = open_model(folder, device, gpu)
    room = opened.folder.manifest.model.max_positions - new_tokens
    lengths = prompt_tokens or [length for length in (32, 256, 1024) if length <= room]
    if not lengths or max(lengths) > room:
        longest = max(lengths, default=0)
        raise click.ClickException(
            f"The model has {room + new_tokens} positions, fewer than a prompt of {longest} and {new_tokens} new tokens. "
            "Lower them."
        )
    images: list[Any] = []
    texts: list[Any] = []
    with Bars() as bars:
        splits = 2 if opened.processor.image_processor.can_split else 1
        bars.start("measuring", splits * len(pixels) + len(lengths) * len(batches or (1, 4)))
        for image_speed in speeds.image_speeds(opened, pixels, rounds):
            images.append(image_speed)
            bars.advance(1)
        for text_speed in speeds.text_speeds(opened, batches or (1, 4), lengths, new_tokens, rounds):
            texts.append(text_speed)
            bars.advance(1)
    if as_json:
        click.echo(json_text({"folder": str(opened.folder.path), "providers": opened.providers} | speeds.as_dict(images, texts)))
    else:
        click.echo(speeds.table(images, texts))
    if plot is not None:
        speeds.plot(images, texts, plot)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not re.fullmatch(r"[1-9][0-9]{0,4}x[1-9][0-9]{0,4}", text):
        raise click.UsageError(f"The size {text!r:.60} is not WIDTHxHEIGHT, in pixels below 100,000. Write it like 980x735.")
    from ..images.decoding_cost import max_pixels

    limit = max_pixels()
    if limit is not None and int(width) * int(height) > limit:
        raise click.UsageError(
            f"The size {text!r:.60} has more pixels than the {limit:,} that an image may have. Make it smaller."
        )
    return int(width), int(height)
