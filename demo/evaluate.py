"""How many held-out questions a model folder answers right: `python -m idefics2_onnx.demo.evaluate [FOLDER]`.

Runs on ONNX Runtime alone. Every figure comes with its count and its 95% interval (Wilson's).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click

from ..runtime.commands.options import options_of
from ..runtime.model import Idefics2
from .tasks import TASKS, case

LONGEST = 96
"""Tokens; the longest right answer, a receipt as JSON, has fewer."""
_Z = 1.959964


@dataclass(frozen=True)
class Score:
    """Answers of one task."""

    task: str
    cases: int
    right: int
    interval: tuple[float, float]
    """95%, of the share that is right."""
    differ: int | None
    """Answers unlike the other folder's, if there is one."""


def answers(
    model: Idefics2, task: str, numbers: Sequence[int], *, batch_size: int = 16, **options: Any
) -> Iterator[tuple[str, str]]:
    """The model's answers to held-out cases of those numbers, each with the right one."""
    for some in (numbers[i : i + batch_size] for i in range(0, len(numbers), batch_size)):
        cases = [case(task, "held-out", number) for number in some]
        found = model.generate([one.messages for one in cases], **{"max_new_tokens": LONGEST, **options})
        yield from ((result.text, one.answer) for result, one in zip(found, cases, strict=True))


def interval(right: int, cases: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share."""
    share, square = right / cases, _Z**2
    middle = (share + square / (2 * cases)) / (1 + square / cases)
    half = _Z / (1 + square / cases) * (share * (1 - share) / cases + square / (4 * cases**2)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def score(model: Idefics2, task: str, numbers: Sequence[int], other: Idefics2 | None = None, **options: Any) -> Score:
    """Exact matches, and differences from another model."""
    found = list(answers(model, task, numbers, **options))
    right = sum(text == wanted for text, wanted in found)
    differ = None
    if other is not None:
        differ = sum(a != b for (a, _), (b, _) in zip(found, answers(other, task, numbers, **options), strict=True))
    return Score(task, len(found), right, interval(right, len(found)), differ)


@click.command()
@click.argument("folder", required=False)
@click.option("--against", metavar="FOLDER", help="Another model folder; count the answers that differ, too.")
@click.option("--cases", type=click.IntRange(1), default=500, show_default=True, help="Held-out cases per task.")
@click.option("--task", "tasks", multiple=True, type=click.Choice(list(TASKS)), help="Only this one; may be repeated.")
@click.option("--no-split", is_flag=True, help="Do not split images in four.")
@click.option("-O", "--option", "chosen", multiple=True, metavar="NAME=VALUE", help="Any generation option.")
@click.option("--device", default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per task instead of a table.")
def main(
    folder: str | None,
    against: str | None,
    cases: int,
    tasks: tuple[str, ...],
    no_split: bool,
    chosen: tuple[str, ...],
    device: str,
    as_json: bool,
) -> None:
    """Ask the model in FOLDER [default: the demo] the demo's held-out questions."""
    options = options_of(chosen) | ({"do_image_splitting": False} if no_split else {})
    model = Idefics2.from_pretrained(folder, device)
    other = Idefics2.from_pretrained(against, device) if against else None
    start, scores = time.perf_counter(), []
    for task in tasks or TASKS:
        found = score(model, task, range(cases), other, **options)
        scores.append(found)
        click.echo(json.dumps(asdict(found)) if as_json else _line(found))
    if not as_json and len(scores) > 1:
        count, right = sum(s.cases for s in scores), sum(s.right for s in scores)
        differ = sum(s.differ or 0 for s in scores) if other else None
        click.echo(_line(Score("all", count, right, interval(right, count), differ)))
    click.echo(f"{time.perf_counter() - start:.0f} s", err=True)


def _line(found: Score) -> str:
    share, low, high = (100 * part for part in (found.right / found.cases, *found.interval))
    line = f"{found.task:12}{share:6.1f} %   {found.right:5} of {found.cases:5}   {low:5.1f} to {high:5.1f} %"
    if found.differ is None:
        return line
    return f"{line}   {found.differ:4} answers differ ({100 * found.differ / found.cases:.2f} %)"


if __name__ == "__main__":
    main()
