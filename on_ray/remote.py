"""Pictures and tables at addresses that pyarrow reads: s3://, gs://, abfs://, hdfs://, hf://, file:// and fsspec+NAME://."""

from __future__ import annotations

import posixpath
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

from pyarrow import fs

from ..runtime.batch.columns import Columns
from ..runtime.batch.json_lines import JsonLines
from ..runtime.batch.parquet_questions import ParquetQuestions
from ..runtime.batch.pictures import ENDINGS
from ..runtime.batch.question import Question
from ..runtime.batch.sources import TABLES, Source
from ..runtime.errors import BatchError, ImageError, first_line, shown
from ..runtime.outside.download import MAX_DOWNLOAD, is_url

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def is_address(name: Any) -> bool:
    """Whether pyarrow is asked for it; http(s) has limits of its own, and is not among them."""
    return isinstance(name, str) and _ADDRESS.match(name) is not None and not is_url(name)


@dataclass(frozen=True)
class RemotePicture:
    """A file that is read where its picture is prepared, and when.

    Attributes:
        folder: the address of one above it, where the rest is a name, in which no sign has a meaning as it has in an address.
    """

    address: str
    folder: str = ""

    @property
    def name(self) -> str:
        """What errors call it."""
        return self.address

    def read(self) -> bytes:
        """The file's bytes; ImageError says why they cannot be had."""
        try:
            system, path = _system(self.folder or self.address)
            name = self.address.removeprefix(self.folder.rstrip("/")) if self.folder else ""
            with system.open_input_stream(path.rstrip("/") + name) as file:
                content = bytes(file.read(MAX_DOWNLOAD + 1))
        except Exception as error:  # each file system has its own
            raise ImageError(f"{shown(self.address)} cannot be read ({first_line(error)}). Check address and rights.") from error
        if len(content) > MAX_DOWNLOAD:
            raise ImageError(f"{shown(self.address)} has more than {MAX_DOWNLOAD:,} bytes. Give a smaller image.")
        return content


def picture(value: Any) -> Any:
    """What a scheduler takes for a picture: of an address a file, of all else the same."""
    return RemotePicture(value) if is_address(value) else value


@dataclass(frozen=True)
class RemotePictures:
    """The pictures below an address, by name, or those that a pattern's last part fits."""

    address: str
    prompt: str

    @property
    def path(self) -> Path:
        return Path(self.address)

    def count(self) -> int:
        """BatchError if there is none."""
        count = sum(1 for _ in self._pictures())
        if not count:
            raise BatchError(f"{shown(self.address)} holds no picture ({', '.join(ENDINGS)}). Check the address.")
        return count

    def questions(self) -> Iterator[Question]:
        for picture in self._pictures():
            yield Question(picture.address, self.prompt, [picture], [picture.address])

    def _pictures(self) -> Iterator[RemotePicture]:
        above, last = posixpath.split(self.address)
        pattern = last if any(sign in last for sign in "*?[") else None
        try:
            system, path = _system(above if pattern else self.address)
            info = system.get_file_info(path)
            if info.type == fs.FileType.File:
                yield RemotePicture(self.address)
                return
            found = system.get_file_info(fs.FileSelector(path, recursive=pattern is None))
            names = sorted(posixpath.relpath(each.path, path) for each in found if each.type == fs.FileType.File)
            if isinstance(system, fs.LocalFileSystem):  # which goes into linked folders, also where they lead in a circle
                names = [name for name in names if not any(Path(path, each).is_symlink() for each in Path(name).parents[:-1])]
        except Exception as error:  # each file system has its own
            raise BatchError(
                f"{shown(self.address)} cannot be listed ({first_line(error)}). Check address and rights."
            ) from error
        folder = above if pattern else self.address
        for name in names:
            hidden = any(part.startswith(".") for part in name.split("/"))
            if not hidden and (fnmatch(name, pattern) if pattern else name.lower().endswith(ENDINGS)):
                yield RemotePicture(f"{folder.rstrip('/')}/{name}", folder)


@dataclass(frozen=True)
class RemoteTable:
    """A table of questions, copied here to be read; paths in it are beside it, as in a table on the disk."""

    address: str
    columns: Columns

    @property
    def path(self) -> Path:
        return Path(self.address)

    def count(self) -> int:
        table = _copied(self.address, self.columns)
        try:
            return table.count()
        except BatchError as error:
            raise BatchError(str(error).replace(str(table.path), shown(self.address))) from error

    def questions(self) -> Iterator[Question]:
        table = _copied(self.address, self.columns)
        here, there = table.path.parent, posixpath.dirname(self.address)
        for question in table.questions():
            line = question.id.rpartition(":")[2]
            names = [name and _beside(name, here, there) for name in question.names]
            images = [_picture_beside(str(each), here, there) if isinstance(each, Path) else each for each in question.images]
            yield replace(question, id=f"{self.address}:{line}", names=names, images=images)


def remote_source(address: str, columns: Columns) -> Source:
    """What is at an address; BatchError for pictures without a prompt."""
    if Path(address).suffix.lower() in TABLES:
        return RemoteTable(address, columns)
    if columns.usual_prompt is None:
        raise BatchError(f"{shown(address)} has no prompt beside its pictures. Give --prompt, or name a table with prompts.")
    return RemotePictures(address, columns.usual_prompt)


def _beside(name: str, here: Path, there: str) -> str:
    """A path or address in a table, which lies `there` and was copied `here`."""
    within = str(Path(name).relative_to(here)) if Path(name).is_relative_to(here) else name
    return within if is_address(within) or posixpath.isabs(within) else f"{there}/{within}"


def _picture_beside(name: str, here: Path, there: str) -> Any:
    address = _beside(name, here, there)
    return RemotePicture(address, there) if address.startswith(f"{there}/") else picture(address)


@cache
def _copied(address: str, columns: Columns) -> JsonLines | ParquetQuestions:
    folder = _folder()
    target = Path(folder.name, f"{len(list(Path(folder.name).iterdir()))}{Path(address).suffix}")
    try:
        fs.copy_files(address, str(target))
    except Exception as error:  # each file system has its own
        raise BatchError(f"{shown(address)} cannot be read ({first_line(error)}). Check address and rights.") from error
    return TABLES[target.suffix.lower()](target, columns)


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """For copies of tables, until this process ends."""
    return tempfile.TemporaryDirectory(prefix="idefics2-onnx-")


@cache
def _system(address: str) -> tuple[fs.FileSystem, str]:
    found: tuple[fs.FileSystem, str] = fs.FileSystem.from_uri(address)
    return found
