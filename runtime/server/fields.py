"""The fields of an object in a request, each taken once by its name: what nobody takes is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import checks as values
from ..errors import PromptError, shown
from .problem import Problem


class Fields:
    """null is the same as left out, as in OpenAI's API."""

    def __init__(self, given: Any, where: str = "") -> None:
        """`where` is the object's place in the request, "" for the request itself. Problem 400 if it is no object."""
        if not isinstance(given, dict):
            raise Problem(400, f"{where or 'The body'} is {_kind(given)}. Send an object.", "invalid_type", where or None)
        self._left = {name: value for name, value in given.items() if value is not None}
        self._where = where

    def place(self, name: str) -> str:
        """How errors call a field."""
        return f"{self._where}.{name}" if self._where else name

    def take(self, name: str) -> Any:
        """Its value, whatever it is; None if there is none."""
        return self._left.pop(name, None)

    def checked(self, name: str, check: values.Check) -> Any:
        """Its value in its normal form, None if there is none; Problem 400 if it is wrong."""
        if (value := self.take(name)) is None:
            return None
        try:
            return check(self.place(name), value)
        except PromptError as error:
            raise Problem(400, str(error), "invalid_value", self.place(name)) from error

    def required(self, name: str, check: values.Check) -> Any:
        """The same of a field that has to be there."""
        if name not in self._left:
            raise Problem(400, f"{self.place(name)} is missing. Send it.", "missing", self.place(name))
        return self.checked(name, check)

    def pass_over(self, neutral: Mapping[str, tuple[Any, ...] | None]) -> None:
        """Take fields that change no answer: at any value where the table has None, else at one of those values."""
        for name, harmless in neutral.items():
            if (value := self.take(name)) is not None and harmless is not None and value not in harmless:
                raise self._not_offered(name, value)

    def end(self) -> None:
        """Problem 400 that names a field which nobody took."""
        for name, value in self._left.items():
            raise self._not_offered(name, value)

    def _not_offered(self, name: str, value: Any) -> Problem:
        place = shown(self.place(name), 100)
        return Problem(
            400, f"{place} is {shown(repr(value), 60)}, which is not offered here. Leave it out.", "unsupported", place
        )


def text(name: str, value: Any) -> str:
    """A check: any text."""
    if not isinstance(value, str):
        raise PromptError(f"{name} is {_kind(value)}. Give text.")
    return value


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null"}.get(
        type(value), "a number"
    )
