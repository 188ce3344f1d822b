"""What is typed as inputs: pictures, folders, patterns and tables."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from ..errors import BatchError, shown
from ..outside.download import is_url
from .columns import Columns
from .json_lines import JsonLines
from .parquet_questions import ParquetQuestions
from .pictures import Pictures
from .question import Question

TABLES: dict[str, type[JsonLines | ParquetQuestions]] = {
    ".jsonl": JsonLines,
    ".ndjson": JsonLines,
    ".parquet": ParquetQuestions,
}


class Source(Protocol):
    """Where questions come from."""

    @property
    def path(self) -> Path:
        """A file or folder."""

    def count(self) -> int:
        """How many there are, which reads through the source; BatchError if it cannot be read."""

    def questions(self) -> Iterator[Question]:
        """One after another, always in the same order."""


Remote = Callable[[str, Columns], Source]


def sources(inputs: Sequence[str], columns: Columns, apart: Sequence[Path] = (), remote: Remote | None = None) -> list[Source]:
    """One for each input; BatchError for what is not there, and for pictures without a prompt.

    Args:
        apart: files to leave out, such as the output of an earlier run, which a pattern may fit.
        remote: what reads addresses such as s3://bucket/photos; None where nothing does.
    """
    own = {path.resolve() for path in apart}
    found: list[Source] = []
    for name in inputs:
        if remote is not None and "://" in name and not is_url(name):
            found.append(remote(name, columns))
        else:
            found += [_source(path, columns) for path in _paths(name) if path.resolve() not in own]
    return found


def _source(path: Path, columns: Columns) -> Source:
    table = TABLES.get(path.suffix.lower())
    if table is not None and path.is_file():
        return table(path, columns)
    if columns.usual_prompt is None:
        raise BatchError(
            f"{path} has no prompt beside its pictures. Give --prompt, or name a table (.jsonl or .parquet) with prompts."
        )
    return Pictures(path, columns.usual_prompt)


def _paths(name: str) -> list[Path]:
    """Of a pattern, those that it fits, by name: some shells leave that to the program."""
    if is_url(name):
        raise BatchError(f"{shown(name)} is a URL. Download it, and name the file.")
    try:
        path = Path(name)
        if path.is_file() or path.is_dir():
            return [path]
        found = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else []  # noqa: PTH207  Path.glob takes no absolute pattern
    except (OSError, ValueError):  # a name too long, or with a zero byte
        found = []
    if not found:
        what = "fits the pattern" if glob.has_magic(name) else "is called"
        raise BatchError(f"No file and no folder {what} {shown(name)}. Check the name.")
    return [Path(each) for each in found]
