"""A batch's questions → rows, on Ray: what `runtime/batch/job.py` does in one process.

Rows come to the driver, which appends them to the one file that `batch` writes: rows, order, recipe and going on are the same.
Ray Data's own checkpoints are not used: they are beta, note ids per block that a sink of Ray's has written into a folder of many
files, without what they were made with, and the actor that leaves those out wants a gigabyte and a CPU of its own.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.data import DataContext, read_datasource

from ..runtime.batch.answers import Answers
from ..runtime.batch.sources import Source
from ..runtime.errors import BatchError, first_line
from .cluster import cluster
from .errors import RayError
from .opening import Opening
from .pipeline import RESTARTS, answered
from .questions import Answering, Questions
from .remote import remote_source

__all__ = ["Opening", "answer", "remote_source"]

_BLOCK = 1 << 20
"""Bytes of questions that are read before the first of them are asked."""


def answer(
    address: str,
    sources: Sequence[Source],
    answers: Answers,
    opening: Opening,
    *,
    actors: int,
    ordered: bool,
    rows: int,
    options: dict[str, Any],
) -> Generator[int | Exception, None, None]:
    """Write a row for each question that has none, and give how many pictures it has; for a question that failed, why.

    Where actors die more often than Ray starts them again, it is begun anew, as long as that brings rows.

    Raises:
        RayError: there is no such cluster, a node cannot open the model, or actors die without a row between.
    """
    with tempfile.TemporaryDirectory(prefix="idefics2-onnx-") as copies, cluster(address, opening, actors):
        _quiet(ordered)
        while True:
            before = answers.rows
            try:
                yield from _rows(sources, answers, opening, actors, rows, options, copies)
                return
            except ray.exceptions.RayError as error:
                if answers.rows == before:
                    raise RayError(_why(error, opening)) from error


def _rows(
    sources: Sequence[Source],
    answers: Answers,
    opening: Opening,
    actors: int,
    rows: int,
    options: dict[str, Any],
    copies: str,
) -> Generator[int | Exception, None, None]:
    folder = Path.cwd()
    questions = read_datasource(
        Questions(sources, answers.ids, folder, copies),
        num_cpus=0.1,
        label_selector={"ray.io/node-id": ray.get_runtime_context().get_node_id()},  # here, where they were named
        override_num_blocks=1,
    )
    rows_of_answers = answered(questions, Answering, opening, actors, rows, options, folder)
    for block in rows_of_answers.iter_batches(batch_size=None, batch_format="pyarrow"):
        for record in block.to_pylist():
            if record["problem"] is not None:
                raise RayError(record["problem"])
            if record["failure"] is not None:
                yield BatchError(record["failure"])
                continue
            row = json.loads(record["row"])
            if row["id"] not in answers.ids:
                answers.ids.add(row["id"])
                answers.append_row(row)
                yield len(row["images"])


def _quiet(ordered: bool) -> None:
    """This process is the command's own, and says itself how far it is."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = _BLOCK
    context.execution_options.preserve_order = ordered
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _why(error: Exception, opening: Opening) -> str:
    """Which of Ray's errors it is."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or getattr(causes[-1], "cause", None)) is not None and len(causes) < 10:
        causes.append(cause)
    if any(isinstance(each, ray.exceptions.RayActorError | ray.exceptions.OutOfMemoryError) for each in causes):
        return (
            f"Actors died {RESTARTS + 1} times without an answer between, as they do where memory is short: each was given "
            f"{opening.memory / 1e9:.1f} GB. Give a smaller --batch-size, fewer --ray-actors, or nodes with more memory."
        )
    return f"Ray failed: {first_line(causes[-1])}. Run the same command again, or without --ray."
