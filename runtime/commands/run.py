"""The command `run`: one prompt about images, answered piece by piece or as JSON."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

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
    stats_option,
)
from .output import say
from .standard_streams import json_text

if TYPE_CHECKING:
    from ..generation.answer import Generation

_IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif")


@click.command()
@click.argument("arguments", nargs=-1, required=True, metavar="[IMAGE]... PROMPT")
@model_option
@device_option
@gpu_option
@max_new_tokens_option
@generation_option
@json_schema_option
@regex_option
@grammar_option
@click.option("--raw", is_flag=True, help="Take PROMPT literally instead of as a user turn of a chat.")
@click.option("--no-split", is_flag=True, help="Do not split images in four: faster, worse on small text.")
@pixel_option
@stats_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of streaming text.")
def run(
    arguments: tuple[str, ...],
    model: str | None,
    device: str,
    gpu: tuple[str, ...],
    max_new_tokens: int | None,
    chosen: tuple[str, ...],
    json_schema: Path | None,
    regex: str | None,
    grammar: Path | None,
    raw: bool,
    no_split: bool,
    max_image_pixels: int | None,
    stats: bool,
    as_json: bool,
) -> None:
    """Answer PROMPT about the IMAGEs (files, URLs, or - for stdin), streaming the text."""
    *images, prompt = arguments
    if os.path.isfile(prompt):  # noqa: PTH113  unlike Path's, it answers for a prompt longer than any file name
        raise click.UsageError(f"The last argument, {prompt}, is a file, so the prompt is missing. Put the question last.")
    if not images and prompt == "-":
        raise click.UsageError("- is an image on stdin, and the prompt is missing. Put the question last.")
    if not images and prompt.lower().endswith(_IMAGE_ENDINGS) and " " not in prompt:
        raise click.UsageError(f"There is no file {prompt}, and the prompt is missing. Check the path and put the question last.")
    asked = options_of(chosen, max_new_tokens=max_new_tokens, json_schema=json_schema, regex=regex, grammar=grammar)
    options = asked | {"raw": raw}
    if no_split:
        options["do_image_splitting"] = False
    limit_pixels(max_image_pixels)
    pictures = [picture(image) for image in images]  # before the model: opening a large one takes a while
    opened = open_model(model, device, gpu)
    chosen_options = opened.options.replace(**asked)
    if chosen_options.num_beams > 1 or chosen_options.num_return_sequences > 1:  # these do not grow piece by piece
        answers = opened.generate(prompt, pictures, **options)
        results = answers if isinstance(answers, list) else [answers]
        for result in () if as_json else results:
            click.echo(result.text)
    else:
        stream = opened.stream(prompt, pictures, **options)
        for piece in stream:
            if not as_json:
                click.echo(piece, nl=False)
        results = [stream.result]
        if not as_json:
            click.echo()
    if as_json:
        shown = [asdict(result) for result in results]
        click.echo(json_text(shown if len(shown) > 1 else shown[0]))
    for line in results[0].timings.lines() if stats else [_timing_line(results[0])]:
        say(line)
    if (structure := chosen_options.structure) and any(result.finish_reason == "length" for result in results):
        longest = max(len(result.token_ids) for result in results)
        raise click.ClickException(
            f"The answer was cut off at {longest} tokens, before it was whole by its {structure}. Raise --max-new-tokens."
        )


def _timing_line(result: Generation) -> str:
    timings = result.timings
    line = f"[{result.prompt_tokens} prompt tokens, first token after {timings.images + timings.prefill:.2f} s"
    if timings.tokens_per_second:
        line += f", then {timings.tokens_per_second:.1f} tokens/s"
    return f"{line}, {'ended by itself' if result.finish_reason == 'stop' else 'cut off by max_new_tokens'}]"
