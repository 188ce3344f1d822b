"""A table with a JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from ..errors import BatchError, first_line, readable
from .columns import Columns
from .question import Question

LONGEST = 16 << 20
"""Bytes of a line; a picture may stand in one, as a data: URL."""


@dataclass(frozen=True)
class JsonLines:
    """One question a line; empty lines are none."""

    path: Path
    columns: Columns

    def count(self) -> int:
        return sum(1 for _ in self._lines())

    def questions(self) -> Iterator[Question]:
        for number, line in self._lines():
            yield self._question(f"{self.path}:{number}", line)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Lines with their numbers; of one that is too long, its beginning."""
        with readable(BatchError), self.path.open("rb") as file:
            for number in count(1):
                line = rest = file.readline(LONGEST + 1)
                while len(rest) > LONGEST and not rest.endswith(b"\n"):
                    rest = file.readline(LONGEST + 1)
                if not line:
                    return
                if line.strip():
                    yield number, line

    def _question(self, place: str, line: bytes) -> Question:
        if len(line.rstrip(b"\r\n")) > LONGEST:
            return Question(
                place, error=f"The line has more than {LONGEST:,} bytes. Write pictures into files, and their paths here."
            )
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            return Question(place, error=f"The line is no JSON: {first_line(error)}. Mend it.")
        if not isinstance(record, dict):
            return Question(place, error=f"The line is a {type(record).__name__} in JSON. Write an object: {{...}}.")
        return self.columns.question(place, record, self.path.parent)
