"""A folder's chat template: Jinja in a sandbox with a meter, with the globals the reference gives it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Template, TemplateError

from ...graphs.errors import ModelFolderError
from ..errors import PromptError, first_line
from ..folder import find_file, find_json
from .lost_text import LostText
from .prompt import Message, check_messages, with_plain_items
from .template_costs import check_widths
from .template_environment import MeteredEnvironment
from .template_meter import METER, Meter

_TURNS: tuple[list[Message], ...] = (
    [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
    [{"role": "user", "content": "Hello"}],
)
"""What every template has to take, in one form or the other."""
_EXCHANGE: list[Message] = [
    {"role": role, "content": [{"type": "text", "text": text}]} for role, text in (("user", "Hello"), ("assistant", "there"))
]
_DEPTH = 64
"""Most lists and dicts inside one another in a message, far below where Python's own limit ends what walks through them."""


class ChatTemplate:
    """A compiled template.

    Args:
        text: Jinja.
        variables: what a template may name besides the messages: bos_token, eos_token, …
    """

    def __init__(self, text: str, variables: dict[str, str]) -> None:
        functions = {"raise_exception": _raise, "strftime_now": _strftime_now}
        self._environment, self._jinja = MeteredEnvironment({"tojson": _tojson}, functions, variables), text
        self._variables, self._lost = variables, LostText(self._text)

    def __reduce__(self) -> tuple[Any, ...]:  # Jinja's code cannot be pickled
        return ChatTemplate, (self._jinja, self._variables)

    def check(self) -> None:
        """Raise ModelFolderError unless it is valid Jinja."""
        assert self._template is not None

    @cached_property
    def _template(self) -> Template:
        """Compiled when it is first used: raw prompts do without."""
        try:
            return self._environment.from_string(self._environment.syntax_tree(self._jinja))
        except Exception as error:  # Python's compiler has limits of its own
            raise ModelFolderError(
                f"The chat template is not valid Jinja ({first_line(error)}). Pass raw text with raw=True."
            ) from error

    @cached_property
    def only_joins(self) -> bool:
        """Whether it puts texts behind one another and adds nothing, as a base model's does, which completes them."""
        try:
            return self._text(_EXCHANGE, True) == "Hellothere"
        except Exception:  # any mistake of the template's
            return False

    def render(self, messages: list[Message], add_generation_prompt: bool = False) -> str:
        """The conversation as text.

        Raises:
            PromptError: the template refuses the messages, or does not use a text of theirs.
            ModelFolderError: the template takes too long, or makes nothing of any conversation.
        """
        check_messages(messages)
        plain = [_plain(message) for message in with_plain_items(messages)]
        assert self._template is not None  # an error about it is none about the messages
        try:
            text = self._text(plain, add_generation_prompt)
        except ModelFolderError:
            raise
        except Exception as error:  # a template is a program: its mistakes on unforeseen messages are of every kind
            if isinstance(error, RecursionError) or (not isinstance(error, _RefusedError) and self._fails()):
                raise ModelFolderError(
                    f"The chat template fails on every conversation ({first_line(error)}). Correct the template of the model "
                    "folder, or pass raw text with raw=True."
                ) from error
            raise PromptError(
                f"The chat template refuses these messages ({first_line(error)}). Check roles and contents."
            ) from error
        self._lost.check(plain, add_generation_prompt, text)
        return text

    def _text(self, messages: list[Message], add_generation_prompt: bool) -> str:
        """What the template makes of messages of plain types."""
        token = METER.set(Meter(messages))
        try:
            return self._template.render(messages=messages, add_generation_prompt=add_generation_prompt)
        except MemoryError as error:
            raise ModelFolderError(
                "The chat template takes more memory than there is. Correct the template of the model folder, or pass raw text "
                "with raw=True."
            ) from error
        finally:
            METER.reset(token)

    def _fails(self) -> bool:
        """Whether the template takes not even one turn of plain text."""
        for turn in _TURNS:
            try:
                self._text(turn, True)
            except Exception:  # noqa: S112  any mistake of the template's
                continue
            return False
        return True


def load_chat_template(folder: Path, variables: dict[str, str]) -> ChatTemplate | None:
    """The default template of a folder, or None: from the places where the reference's processor or tokenizer keeps it."""
    template: Any = find_json(folder, "processor_config.json").get("chat_template")
    if template is None:
        template = find_json(folder, "chat_template.json").get("chat_template")
    if template is None and (path := find_file(folder, "chat_template.jinja")):
        try:
            template = path.read_text(encoding="utf-8")
        except ValueError as error:
            raise ModelFolderError(f"{path} is not UTF-8 text ({error}). Download it again.") from error
    if template is None:
        template = find_json(folder, "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):  # several, as objects with name and template
        template = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
    if isinstance(template, dict):
        template = template.get("default")
    return ChatTemplate(template, variables) if isinstance(template, str) else None


class _RefusedError(TemplateError):
    """What a template raises about messages."""


def _plain(value: Any, depth: int = 0) -> Any:
    """A copy of plain types, with placeholders for images and other objects, whose methods a template must not reach.

    Source: transformers 5.23, _plain_template_data.
    """
    kind, inner = type(value), depth + 1
    if value is None or kind in (str, int, float, bool):
        return value
    if inner > _DEPTH:
        raise PromptError(f"The messages hold themselves, or more than {_DEPTH} lists in lists. Give plain ones.")
    if isinstance(value, Mapping):
        return {_plain(key, inner): _plain(item, inner) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_plain(item, inner) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, np.generic):
        return _plain(value.item(), inner)
    for plain in (str, int, float):
        if isinstance(value, plain):
            return plain.__str__(value) if plain is str else plain(value)
    return f"<{kind.__name__}>"


def _raise(message: str) -> None:
    raise _RefusedError(message)


def _strftime_now(form: str) -> str:
    check_widths(form)
    METER.get().charge(256 * len(form))
    return datetime.now().strftime(form)


def _tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
