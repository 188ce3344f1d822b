"""The command `batch`: any number of pictures → a file with a row of answers for each."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from copy import deepcopy
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import click

from ..errors import BatchError, first_line
from .opening import choose_model, limit_pixels, open_model
from .options import (
    device_option,
    generation_option,
    gpu_option,
    grammar_option,
    json_schema_option,
    max_new_tokens_option,
    model_option,
    options_of,
    pairs_of,
    pixel_option,
    regex_option,
)
from .output import Bars


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="FILE.jsonl or FILE.parquet."
)
@click.option("--prompt", help="Question about each picture; tables may bring their own.")
@click.option("--image-column", default="image", show_default=True, help="Where tables have pictures: a path, bytes, or several.")
@click.option("--prompt-column", default="prompt", show_default=True, help="Where tables have prompts.")
@model_option
@device_option
@gpu_option
@max_new_tokens_option
@generation_option
@json_schema_option
@regex_option
@grammar_option
@click.option("--raw", is_flag=True, help="Take prompts literally instead of as user turns of a chat.")
@click.option("--no-split", is_flag=True, help="Do not split images in four: faster, worse on small text.")
@pixel_option
@click.option("--batch-size", type=click.IntRange(1, 4096), default=16, show_default=True, help="Answers that grow together.")
@click.option("--unordered", is_flag=True, help="Write rows as they are done, not in the inputs' order.")
@click.option("--restart", is_flag=True, help="Begin anew instead of going on with the rows that OUTPUT has.")
@click.option("--ray", "address", metavar="ADDRESS", help="Answer on this Ray cluster, as host:port or auto, or local.")
@click.option("--ray-actors", "actors", type=click.IntRange(1, 10_000), help="With --ray: models at once [default: 1].")
@click.option("--ray-cpus-per-actor", "cpus", type=click.IntRange(1, 1024), help="With --ray: cores of each [default: 1].")
@click.pass_obj
def batch(
    on_ray: Callable[[], Any],
    inputs: tuple[str, ...],
    output: Path,
    prompt: str | None,
    image_column: str,
    prompt_column: str,
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
    batch_size: int,
    unordered: bool,
    restart: bool,
    address: str | None,
    actors: int | None,
    cpus: int | None,
) -> None:
    """Answer about each INPUT: pictures, folders, patterns such as '*.jpg', and tables (.jsonl, .parquet).

    Interrupted, the same command goes on where it was.
    """
    from ..batch.answers import JSON_LINES, PARQUET, Answers, files_beside
    from ..batch.arrow import arrow
    from ..batch.columns import Columns
    from ..batch.job import answer, unanswered
    from ..batch.recipe import recipe
    from ..batch.row import fields_of
    from ..batch.sources import sources
    from ..devices.gpu_options import GpuOptions
    from ..folder import ModelFolder
    from ..generation.host_files import HostFiles
    from ..sampling.generation_options import GenerationOptions
    from ..text.prompt import check_text

    if address is None and (actors or cpus):
        raise click.UsageError("--ray-actors and --ray-cpus-per-actor go with --ray. Give the address of a cluster, or local.")
    ray = None if address is None else on_ray()
    if output.suffix.lower() not in (JSON_LINES, PARQUET):
        raise click.UsageError(f"{output} ends in neither {JSON_LINES} nor {PARQUET}. Name such a file.")
    if output.suffix.lower() == PARQUET:
        arrow()
    asked = options_of(chosen, max_new_tokens=max_new_tokens, json_schema=json_schema, regex=regex, grammar=grammar)
    options = GenerationOptions.checked(asked)  # a schema's text in place of its file, which may change
    check_text(prompt or "")
    limit_pixels(max_image_pixels)
    found = sources(
        inputs, Columns(image_column, prompt_column, prompt), [output, *files_beside(output)], ray and ray.remote_source
    )
    total = sum(source.count() for source in found)
    if not total:
        raise BatchError("The inputs hold no questions. Name others.")
    folder = ModelFolder.open(choose_model(model))
    shape = {"raw": raw, "do_image_splitting": False if no_split else None}
    settings = {"--prompt": prompt, "--image-column": image_column, "--prompt-column": prompt_column, **options, **shape}
    failure: Exception | None = None
    failures = 0
    with Answers(output, recipe(folder, settings), restart, partial(fields_of, options=options)) as answers, Bars() as bars:
        try:
            questions = unanswered(found, deepcopy(answers.ids) if ray else answers.ids)
            first = next(questions, None)
            if first is not None:
                if ray:
                    HostFiles.read(folder.path, folder.manifest.model).options.replace(**options).check_one_answer()
                    gpu_options = pairs_of(gpu, GpuOptions, "GPU option")
                    opening = ray.Opening.of(folder, device, cpus or 1, batch_size, gpu_options)
                    job = ray.answer(
                        address, found, answers, opening, actors=actors or 1, ordered=not unordered, rows=batch_size,
                        options=options | shape,
                    )  # fmt: skip
                else:
                    opened = open_model(str(folder.path), device, gpu, spinning=False)  # pictures are read and encoded beside
                    opened.options.replace(**options).check_one_answer()
                    left = chain([first], questions)
                    job = answer(opened, left, answers, ordered=not unordered, rows=batch_size, options=options | shape)
                bars.start("answering", max(total - answers.rows, 1))
                start, pictures = time.perf_counter(), 0
                with closing(job):
                    for one in job:
                        if isinstance(one, Exception):
                            failure, failures = failure or one, failures + 1
                        else:
                            pictures += one
                        bars.advance(1, f"{pictures / (time.perf_counter() - start):.2f} pictures/s")
            bars.finish()
            answers.finish()
        except KeyboardInterrupt:
            bars.say(f"Stopped: {answers.rows:,} rows are in {answers.path}. Run the same command again to go on.")
            raise click.exceptions.Exit(1) from None
    click.echo(output)
    if failure is not None:
        raise BatchError(
            f"{failures:,} questions were not answered: {first_line(failure)}. Run the same command again to ask them again."
        )
    if answers.errors:
        raise BatchError(
            f"{answers.errors:,} of {answers.rows:,} rows have an error in place of an answer. See their column error."
        )
