"""What an answer has to look like, in the ways that a caller gives it: a check for each option, whose normal form is text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import PromptError, first_line

LONGEST = 1 << 16
"""Bytes, of a schema or grammar. Compiling takes longer than in proportion: 0.9 s for a schema of 3,000 keys, 26 s for 10,000."""


def json_schema(name: str, value: Any) -> str:
    """A schema as a dict, as JSON text, in a file whose Path it is, or of a pydantic model; text is never a file's name."""
    if isinstance(value, type) and callable(making := getattr(value, "model_json_schema", None)):
        value = making()
    text = _text(name, value, "Give a dict, JSON text, a pathlib.Path of a file, or a pydantic model's class.")
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PromptError(f"{name} is no JSON ({first_line(error)}). Give a schema as a dict or as JSON text.") from error
    if not isinstance(schema, dict):
        raise PromptError(f"{name} is {text!r:.60}. Give a schema that is an object, with a type and what belongs to it.")
    return text


def grammar(name: str, value: Any) -> str:
    """A grammar as text, or in a file whose Path it is."""
    return _text(name, value, "Give text, or a pathlib.Path of a file.")


def _text(name: str, value: Any, advice: str) -> str:
    if isinstance(value, Path):
        value = _read(name, value)
    elif isinstance(value, dict):
        try:
            value = json.dumps(value, ensure_ascii=False, allow_nan=False)
        except (ValueError, TypeError, RecursionError) as error:
            raise PromptError(f"{name} cannot be written as JSON ({first_line(error)}). Give plain values.") from error
    if not isinstance(value, str) or not value:
        raise PromptError(f"{name} is {value!r:.60}. {advice}")
    if (size := len(value.encode("utf-8", "surrogatepass"))) > LONGEST:
        raise PromptError(f"{name} has {size:,} bytes, more than {LONGEST:,}. Ask for less at once.")
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise PromptError(f"{name} holds half a surrogate pair, which no answer can. Give whole characters.")
    return value


def _read(name: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST + 1)
        if len(content) > LONGEST:
            raise PromptError(f"{name}'s file {path} has more than {LONGEST:,} bytes. Ask for less at once.")
        return content.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        if isinstance(error, PromptError):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise PromptError(f"{name}'s file {path} cannot be read ({reason}). Check the path.") from error
