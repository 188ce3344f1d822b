"""A folder's chat template: Jinja in a sandbox, with the globals the reference gives it."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .errors import PromptError
from .folder import read_json_object
from .prompt import Message


class ChatTemplate:
    """A compiled template.

    Args:
        source: Jinja text.
        variables: what a template may name besides the messages: bos_token, eos_token, …
    """

    def __init__(self, source: str, variables: dict[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = lambda value, **options: json.dumps(value, **{"ensure_ascii": False} | options)
        environment.globals.update(raise_exception=_raise, strftime_now=lambda form: datetime.now().strftime(form), **variables)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise PromptError(f"The chat template is not valid Jinja ({error}). Pass raw text with raw=True.") from error

    def render(self, messages: list[Message], add_generation_prompt: bool = False) -> str:
        """The conversation as text; PromptError if the template refuses it."""
        for message in messages:
            if not isinstance(message, dict) or not isinstance(message.get("role"), str) or "content" not in message:
                raise PromptError(f'A message is {message!r:.80}. Give {{"role": "user", "content": [...]}}.')
        try:
            text = self._template.render(messages=[_normal(m) for m in messages], add_generation_prompt=add_generation_prompt)
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
    """OpenAI's image_url items become image items, as in the reference."""
    content = message["content"]
    if not isinstance(content, list):
        return message
    items = [{"type": "image"} if isinstance(item, dict) and item.get("type") == "image_url" else item for item in content]
    return message | {"content": items}


def load_chat_template(folder: Path, variables: dict[str, str]) -> ChatTemplate | None:
    """The template of a folder, from wherever the reference looks for it, or None."""
    source: Any = None
    if (folder / "processor_config.json").is_file():
        source = read_json_object(folder / "processor_config.json").get("chat_template")
    if source is None and (folder / "chat_template.json").is_file():
        source = read_json_object(folder / "chat_template.json").get("chat_template")
    if source is None and (folder / "chat_template.jinja").is_file():
        source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if source is None and (folder / "tokenizer_config.json").is_file():
        source = read_json_object(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(source, list):  # tokenizer configs may hold several by name
        source = next((entry["template"] for entry in source if entry.get("name") == "default"), None)
    return ChatTemplate(source, variables) if isinstance(source, str) else None


def _raise(message: str) -> None:
    raise TemplateError(message)
