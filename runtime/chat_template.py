"""A folder's chat template: Jinja in a sandbox, with the globals the reference gives it."""

from __future__ import annotations

import json
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .errors import ModelFolderError, PromptError
from .folder import find_file, find_json
from .prompt import IMAGE_URL_ITEMS, Message


class ChatTemplate:
    """A compiled template.

    Args:
        source: Jinja text.
        variables: what a template may name besides the messages: bos_token, eos_token, …
    """

    def __init__(self, source: str, variables: dict[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
        environment.filters["tojson"] = lambda value, **options: json.dumps(value, **{"ensure_ascii": False} | options)
        environment.globals.update(raise_exception=_raise, strftime_now=lambda form: datetime.now().strftime(form), **variables)
        self._environment, self._source = environment, source

    def check(self) -> None:
        """Raise PromptError unless it is valid Jinja."""
        assert self._template is not None

    @cached_property
    def _template(self) -> Template:
        """Compiled when it is first used: raw prompts do without."""
        try:
            return self._environment.from_string(self._source)
        except (TemplateError, RecursionError) as error:
            raise PromptError(f"The chat template is not valid Jinja ({error}). Pass raw text with raw=True.") from error

    def render(self, messages: list[Message], add_generation_prompt: bool = False) -> str:
        """The conversation as text; PromptError if the template refuses it."""
        for message in messages:
            if not isinstance(message, dict) or not isinstance(message.get("role"), str) or "content" not in message:
                raise PromptError(f'A message is {message!r:.80}. Give {{"role": "user", "content": [...]}}.')
        try:
            text = self._template.render(messages=[_normal(m) for m in messages], add_generation_prompt=add_generation_prompt)
        except PromptError:
            raise
        except Exception as error:  # a template is a program: its mistakes on unforeseen messages are of every kind
            raise PromptError(f"The chat template refuses these messages ({error}). Check roles and contents.") from error
        for message in messages:
            content = message["content"]
            if isinstance(content, str) and content.strip() not in text:
                raise PromptError(
                    f"The chat template leaves out the text {content!r:.60}, because this message's content is a string. "
                    'Give a list: [{"type": "text", "text": ...}].'
                )
        return text


def _normal(message: Message) -> Message:
    """OpenAI's items with an image's address become image items, as in the reference."""
    content = message["content"]
    if not isinstance(content, list):
        return message
    items = [{"type": "image"} if isinstance(item, dict) and item.get("type") in IMAGE_URL_ITEMS else item for item in content]
    return message | {"content": items}


def load_chat_template(folder: Path, variables: dict[str, str]) -> ChatTemplate | None:
    """The default template of a folder, or None: from the places where the reference's processor or tokenizer keeps it."""
    source: Any = find_json(folder, "processor_config.json").get("chat_template")
    if source is None:
        source = find_json(folder, "chat_template.json").get("chat_template")
    if source is None and (path := find_file(folder, "chat_template.jinja")):
        try:
            source = path.read_text(encoding="utf-8")
        except ValueError as error:
            raise ModelFolderError(f"{path} is not UTF-8 text ({error}). Download it again.") from error
    if source is None:
        source = find_json(folder, "tokenizer_config.json").get("chat_template")
    if isinstance(source, list):  # several, as objects with name and template
        source = {entry.get("name"): entry.get("template") for entry in source if isinstance(entry, dict)}
    if isinstance(source, dict):
        source = source.get("default")
    return ChatTemplate(source, variables) if isinstance(source, str) else None


class _Generation(Extension):
    """``{% generation %} … {% endgeneration %}`` marks what the assistant said, for training; here only the text counts."""

    tags = {"generation"}  # noqa: RUF012  Jinja's own form

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(message: str) -> None:
    raise TemplateError(message)
