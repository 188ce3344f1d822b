"""Answers as one Parquet file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import BatchError, first_line
from .arrow import arrow
from .row import COLUMNS, json_line

_ROW_GROUP = 4096


def column_types() -> dict[str, Any]:
    """Arrow's type of each column that every row has."""
    pyarrow, _ = arrow()
    return {
        **dict.fromkeys(COLUMNS, pyarrow.string()),
        "images": pyarrow.list_(pyarrow.string()),
        **dict.fromkeys(("prompt_tokens", "new_tokens"), pyarrow.int64()),
        **{name: pyarrow.float64() for name in COLUMNS if name.startswith("seconds_")},
    }


def write_table(rows: Path, target: Path) -> None:
    """JSON lines of answers → a Parquet file under that name once it is whole, 4,096 rows at a time.

    Fields of answers become columns of numbers, flags or text; what has several types, lists and objects are text, in JSON.
    """
    pyarrow, parquet = arrow()
    own = column_types()
    kinds = _kinds(rows)
    types = {bool: pyarrow.bool_(), int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    schema = pyarrow.schema([*own.items(), *[(name, types[kind]) for name, kind in kinds.items()]])
    part = target.with_name(f"{target.name}.part")
    with parquet.ParquetWriter(part, schema) as writer:
        found = _rows(rows)
        while some := list(islice(found, _ROW_GROUP)):
            plain = [{name: _plain(row.get(name), kinds.get(name)) for name in schema.names} for row in some]
            writer.write_table(pyarrow.Table.from_pylist(plain, schema))
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(target)


def read_table(table: Path, rows: Path, fields: Callable[[str], dict[str, Any]]) -> None:
    """The way back, to go on with a table that was whole; BatchError where it is not."""
    _, parquet = arrow()
    part = rows.with_name(f"{rows.name}.part")
    try:
        with parquet.ParquetFile(table) as file, part.open("wb") as lines:
            for some in file.iter_batches(_ROW_GROUP, columns=list(COLUMNS)):
                for row in some.to_pylist():
                    lines.write(json_line(row | fields(row["answer"] or "")))
    except (ValueError, KeyError) as error:  # pyarrow's are of the first kind
        raise BatchError(
            f"{table} is damaged: {first_line(error)}. Name another file with -o, or begin anew: --restart."
        ) from error
    part.replace(rows)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            yield json.loads(line)


def _kinds(rows: Path) -> dict[str, type]:
    """Of each field that answers have, one type that all of its values fit."""
    kinds: dict[str, type] = {}
    for row in _rows(rows):
        for name, value in row.items():
            if name in COLUMNS or value is None:
                continue
            kind = type(value) if isinstance(value, bool | int | float) else str
            if kind is int and abs(value) >= 1 << 63:
                kind = str
            before = kinds.setdefault(name, kind)
            if before is not kind:
                kinds[name] = float if {before, kind} == {int, float} else str
    return kinds


def _plain(value: Any, kind: type | None) -> Any:
    """A value as its column takes it."""
    if kind is str and value is not None and not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False)
    return (
        value.encode("utf-8", "replace").decode()
        if isinstance(value, str)
        else float(value)
        if kind is float and value
        else value
    )
