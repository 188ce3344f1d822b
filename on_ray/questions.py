"""Questions of a batch as a Ray dataset, read as they are needed, and the worker that answers them with rows."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from ..runtime.batch.ids import Ids
from ..runtime.batch.job import is_its_own, unanswered
from ..runtime.batch.question import Question
from ..runtime.batch.row import fields_of, json_line, row_of
from ..runtime.batch.sources import Source
from ..runtime.errors import first_line
from ..runtime.generation.mapping import Outcome
from .errors import RayError
from .opening import Opening
from .worker import Worker

_QUESTION = "question"
SOURCE = pa.schema([(_QUESTION, pa.binary())])
"""Pickled: a table's questions may have pictures' bytes or paths, one or several."""
ANSWERED = pa.schema([("row", pa.binary()), ("failure", pa.string()), ("problem", pa.string())])
"""A row in JSON, as bytes since names of files may be no text; or why a question has none; or why this worker answers none."""


class Questions(Datasource):  # type: ignore[misc]  # Ray is not read for its types
    """Those without a row. One task reads them, on the driver's node: tables and folders are read where the command was typed."""

    def __init__(self, sources: Sequence[Source], ids: Ids, folder: Path, copies: str) -> None:
        """Note what to read.

        Args:
            ids: of the rows that are there.
            folder: that paths are relative to.
            copies: a folder for copies of tables. It is the driver's, since Ray ends its processes without letting them tidy up.
        """
        super().__init__()
        self._read = partial(_blocks, sources, ids, folder, copies)

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None) -> list[ReadTask]:  # noqa: ARG002
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(self._read, metadata, schema=SOURCE, per_task_row_limit=per_task_row_limit)]


class Answering(Worker):
    """Questions → rows of answers."""

    def __init__(self, opening: Opening, rows: int, options: dict[str, Any], folder: Path) -> None:
        """Stand where the command was typed, as far as there is such a folder here: paths are relative to it."""
        super().__init__(opening, rows, options)
        with suppress(OSError):
            os.chdir(folder)

    def __call__(self, block: pa.Table) -> pa.Table:
        questions = [pickle.loads(each) for each in block[_QUESTION].to_pylist()]  # noqa: S301  our own, from the driver
        try:
            found = [self._answered(outcome) for outcome in self.outcomes(questions, Question.request)]
        except RayError as error:
            found = [{"problem": str(error)}]
        return pa.Table.from_pylist(found, ANSWERED)

    def _answered(self, outcome: Outcome[Question]) -> dict[str, Any]:
        if outcome.error is not None and not is_its_own(outcome.error):
            return {"failure": first_line(outcome.error)}
        return {"row": json_line(row_of(outcome, fields_of(outcome.answer.text, self._options) if outcome.answer else {}))}


def _blocks(sources: Sequence[Source], ids: Ids, folder: Path, copies: str) -> Iterator[pa.Table]:
    os.chdir(folder)  # of a process that reads this and nothing else
    tempfile.tempdir = copies
    found = unanswered(sources, ids)
    while some := list(islice(found, 64)):
        yield pa.Table.from_pylist([{_QUESTION: pickle.dumps(each)} for each in some], SOURCE)
