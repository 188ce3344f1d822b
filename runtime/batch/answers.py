"""The file of answers: a row per question, appended as they come, kept through whatever ends the program."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import BatchError
from ..generation.mapping import Outcome
from . import recipe as recipes
from .ids import Ids
from .question import Question
from .row import json_line, row_of
from .table import read_table, write_table

JSON_LINES, PARQUET = ".jsonl", ".parquet"


class Answers:
    """Rows in JSON lines, and in the end, where that is asked for, as a Parquet file in their place.

    It is a context manager, which closes the file; `finish` is for when all questions have been asked.

    Attributes:
        output: the file that was asked for.
        path: the file that grows.
        ids: of the rows.
        rows: how many there are, those of earlier runs included.
        errors: how many of them have an error in place of an answer.
    """

    def __init__(self, output: Path, recipe: recipes.Recipe, restart: bool, fields: Callable[[str], dict[str, Any]]) -> None:
        """Go on with what is there.

        Args:
            restart: begin anew instead.
            fields: columns that an answer has besides the usual ones.

        Raises:
            BatchError: what is there was made otherwise, is damaged, or cannot be written.
        """
        self.output, self.ids, self.rows, self.errors = output, Ids(), 0, 0
        self._fields = fields
        self._as_table = output.suffix.lower() == PARQUET
        self.path, made = files_beside(output)
        with self._writable():
            if there := [path for path in {output, self.path} if path.exists() and path.stat().st_size]:
                written = recipes.read(made, output)
                if restart:
                    for path in there:
                        path.unlink()
                else:
                    recipes.compare(written, recipe, output)
            recipes.write(made, recipe)
            if there == [output] and self._as_table and not restart:
                read_table(output, self.path, fields)
            self._file = self.path.open("ab")
            try:
                self._lock()
                self._read()
            except BaseException:
                self._file.close()
                raise

    def append(self, outcome: Outcome[Question]) -> None:
        """Add its row."""
        self.append_row(row_of(outcome, self._fields(outcome.answer.text) if outcome.answer else {}))

    def append_row(self, row: dict[str, Any]) -> None:
        """Add a row, which a program that is killed right after this leaves behind whole."""
        self.rows += 1
        self.errors += row["error"] is not None
        with self._writable():  # last, so that a Ctrl-C meanwhile finds the row counted
            self._file.write(json_line(row))
            self._file.flush()

    def finish(self) -> None:
        """Keep the rows through a power cut, too, and make the table."""
        with self._writable():
            os.fsync(self._file.fileno())
            if self._as_table:
                write_table(self.path, self.output)
                self._file.close()
                self.path.unlink()

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what a full disk did not take has been said
            self._file.close()

    def _read(self) -> None:
        """Note the rows that are there. What follows the last whole one is cut off: it was being written when all ended."""
        end = 0
        with self.path.open("rb") as file:
            for line in file:
                row = _row(line)
                if row is None:
                    break
                self.ids.add(row["id"])
                self.errors += row["error"] is not None
                self.rows += 1
                end += len(line)
            if file.read(1):
                raise BatchError(
                    f"Line {self.rows + 1} of {self.path} is no row of this command. Mend it, or begin anew with --restart."
                )
        if end < self.path.stat().st_size:
            os.truncate(self.path, end)

    def _lock(self) -> None:
        """Keep other processes out until this one ends."""
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BatchError(f"Another process is writing {self.path}. Wait for it, or name another file with -o.") from error
        except OSError:  # a file system without locks
            return

    @contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except BatchError:
            raise
        except OSError as error:
            raise BatchError(
                f"{self.path} cannot be written ({error.strerror or error}). Make room or give permission, and run the same "
                "command again: its rows are kept."
            ) from error


def files_beside(output: Path) -> tuple[Path, Path]:
    """Where the rows of an output are written, and its recipe."""
    rows = output.with_name(output.name + JSON_LINES) if output.suffix.lower() == PARQUET else output
    return rows, output.with_name(f"{output.name}.recipe")


def _row(line: bytes) -> dict[str, Any] | None:
    """None of what is no whole row."""
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("id"), str) and "error" in row else None
