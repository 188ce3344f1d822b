"""Picture files, one by one or a folder of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import BatchError, readable
from .question import Question

ENDINGS = (
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".heic",
    ".heif",
)  # fmt: skip
"""Of the files in a folder that are taken for pictures."""


@dataclass(frozen=True)
class Pictures:
    """A picture file, or the picture files below a folder, hidden ones aside, in the order of their names."""

    path: Path
    prompt: str

    def count(self) -> int:
        """Of a folder that holds no picture, BatchError."""
        count = sum(1 for _ in self._paths())
        if not count:
            raise BatchError(f"{self.path} and the folders in it hold no picture ({', '.join(ENDINGS)}). Name another folder.")
        return count

    def questions(self) -> Iterator[Question]:
        for path in self._paths():
            yield Question(str(path), self.prompt, [path], [str(path)])

    def _paths(self) -> Iterator[Path]:
        if not self.path.is_dir():
            yield self.path
            return
        with readable(BatchError):
            for folder, folders, files in os.walk(self.path, onerror=_raise):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                for name in sorted(files):
                    if name.lower().endswith(ENDINGS) and not name.startswith("."):
                        yield Path(folder, name)


def _raise(error: OSError) -> None:
    raise error
