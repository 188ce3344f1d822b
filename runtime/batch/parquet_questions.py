"""A table in a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BatchError, first_line, shown
from .arrow import arrow
from .columns import Columns
from .question import Question

_AT_ONCE = 16
"""Rows that are read together: each may hold a picture."""


@dataclass(frozen=True)
class ParquetQuestions:
    """One question a row, numbered from 1."""

    path: Path
    columns: Columns

    def count(self) -> int:
        """BatchError if the file or a column is not there."""
        with self._open() as file:
            names = file.schema_arrow.names
            wanted = {"--image-column": self.columns.image}
            if self.columns.usual_prompt is None:
                wanted["--prompt-column"] = self.columns.prompt
            for option, name in wanted.items():
                if name not in names:
                    raise BatchError(
                        f"{self.path} has no column {shown(name)} but {shown(', '.join(names))}. Name one with {option}."
                    )
            return int(file.metadata.num_rows)

    def questions(self) -> Iterator[Question]:
        number = 0
        try:
            with self._open() as file:
                names = [name for name in (self.columns.image, self.columns.prompt) if name in file.schema_arrow.names]
                for some in file.iter_batches(_AT_ONCE, columns=names):
                    for row in range(some.num_rows):
                        number += 1
                        yield self._question(f"{self.path}:{number}", some, row)
        except Exception as error:  # pyarrow raises what it likes for a damaged file
            place = f"{self.path}:{number + 1}"
            yield Question(place, error=f"The rows from here on cannot be read: {first_line(error)}. Write the file again.")

    def _question(self, place: str, some: Any, row: int) -> Question:
        try:
            record = {name: some.column(name)[row].as_py() for name in some.schema.names}
        except ValueError as error:  # text that is not UTF-8
            return Question(place, error=f"The row cannot be read: {first_line(error)}. Write it again.")
        return self.columns.question(place, record, self.path.parent)

    def _open(self) -> Any:
        _, parquet = arrow()
        try:
            return parquet.ParquetFile(self.path)
        except Exception as error:
            raise BatchError(f"{self.path} cannot be read as Parquet: {first_line(error)}. Check the file.") from error
