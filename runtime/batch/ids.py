"""Which questions have a row: of a table's lines, as they come in order, a number; of pictures, a hash each."""

from __future__ import annotations

from hashlib import blake2b


class Ids:
    """A set of ids in little memory."""

    def __init__(self) -> None:
        self._lines: dict[str, int] = {}  # all lines up to this one, by table
        self._others: set[int] = set()

    def __contains__(self, id: str) -> bool:  # noqa: A002  the field's name
        table, line = _parts(id)
        return 0 < line <= self._lines.get(table, 0) or _hash(id) in self._others

    def add(self, id: str) -> None:  # noqa: A002
        table, line = _parts(id)
        if line == 0 or line != self._lines.get(table, 0) + 1:
            self._others.add(_hash(id))
            return
        self._lines[table] = line
        while self._others and (following := _hash(f"{table}:{self._lines[table] + 1}")) in self._others:
            self._others.remove(following)
            self._lines[table] += 1


def _parts(id: str) -> tuple[str, int]:  # noqa: A002
    table, _, line = id.rpartition(":")
    return (table, int(line)) if table and line.isascii() and line.isdigit() and line[0] != "0" and len(line) < 16 else (id, 0)


def _hash(id: str) -> int:  # noqa: A002
    return int.from_bytes(blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
