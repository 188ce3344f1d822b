"""A record of a table, by the names of its columns → a Question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PromptError, shown
from ..outside.download import is_url
from .question import Question


@dataclass(frozen=True)
class Columns:
    """Where pictures and prompts stand.

    Attributes:
        usual_prompt: of records that have none of their own.
    """

    image: str
    prompt: str
    usual_prompt: str | None

    def question(self, id: str, record: Mapping[str, Any], folder: Path) -> Question:  # noqa: A002  the field's name
        """Paths are relative to the table's folder."""
        try:
            prompt = self._prompt(record)
            value = record[self.image] if self.image in record else _missing(self.image, record)
            values = value if isinstance(value, list) else [] if value is None else [value]
            images = [_image(each, folder) for each in values]
        except PromptError as error:
            return Question(id, error=str(error))
        return Question(id, prompt, [image for image, _ in images], [name for _, name in images])

    def _prompt(self, record: Mapping[str, Any]) -> str:
        prompt = record.get(self.prompt)
        if prompt is None:
            prompt = self.usual_prompt
        if prompt is None:
            raise PromptError(f"There is no prompt under {shown(self.prompt)}. Write it there, or give --prompt.")
        if not isinstance(prompt, str):
            raise PromptError(f"The prompt is {shown(repr(prompt)[:60])}, which is no text. Write text.")
        return prompt


def _missing(name: str, record: Mapping[str, Any]) -> Any:
    found = ", ".join(map(shown, list(record)[:20])) or "nothing"
    raise PromptError(f"There is no {shown(name)} among {found}. Name the pictures' column with --image-column.")


def _image(value: Any, folder: Path) -> tuple[Any, str | None]:
    """An image with its name, of a path, bytes, or a record of both as data sets' libraries write it."""
    if isinstance(value, dict) and value.keys() <= {"bytes", "path"}:
        path, content = value.get("path"), value.get("bytes")
        if content is not None:
            return content, path if isinstance(path, str) else None
        value = path
    if isinstance(value, bytes):
        return value, None
    if not isinstance(value, str):
        raise PromptError(f"A picture is a {type(value).__name__}. Write its path, or a list of paths.")
    if value[:5].lower() == "data:":
        return value, None
    if is_url(value):
        raise PromptError(f"{shown(value)} is a URL, and a table's are not followed. Download it and write the file's path.")
    path = folder / value
    return path, str(path)
