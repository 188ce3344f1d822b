"""Text of a conversation that a chat template does not use, so that the model would answer another prompt without a word."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..errors import PromptError
from .prompt import Message

_MARK = re.compile(r"(?:\ue000|\\ue000)(\d+)(?:\ue001|\\ue001)")
"""A string's number between two characters that belong to nobody, as they are or as JSON writes them."""
_SHAPES = 32


class LostText:
    """Finds it by rendering once more with a mark in place of each string: a text itself may stand in the prompt by chance.

    Args:
        render: makes text of messages and whether a generation prompt is added.
    """

    def __init__(self, render: Callable[[list[Message], bool], str]) -> None:
        self._render = render
        self._rendered: dict[tuple[str, bool], str] = {}  # by what is rendered: conversations of one shape share it

    def check(self, messages: list[Message], add_generation_prompt: bool, prompt: str) -> None:
        """Raise PromptError if a text of the messages is not in the prompt that was rendered of them."""
        marks = _Marks()
        marked = [marks.on_message(message) for message in messages]
        rendered = self._with_marks(marked, add_generation_prompt)
        if rendered is None:  # the template does not take marks for text
            used, lost = set(), [part for part in marks.parts if not any(text in prompt for text in part.texts.values())]
        else:
            used = {int(number) for number in _MARK.findall(rendered)}
            lost = _lost(marks.parts, used, prompt, rendered)
        if lost:
            raise PromptError(_sentence(lost[0], bool(used)))

    def _with_marks(self, marked: list[Message], add_generation_prompt: bool) -> str | None:
        try:
            shape = repr(marked), add_generation_prompt
            known = self._rendered.get(shape)
            if known is None:
                known = self._render(marked, add_generation_prompt)
                if len(self._rendered) >= _SHAPES:
                    self._rendered.clear()
                self._rendered[shape] = known
        except Exception:  # any mistake of the template's on what is no real text
            return None
        return known


@dataclass
class _Part:
    """What a template has to use: one text of a message's content, or anything of another key, such as tool_calls."""

    message: Message
    key: str
    texts: dict[int, str] = field(default_factory=dict)
    """By the number of the mark that stands in its place; without blanks around them."""


class _Marks:
    """Puts them in place of strings, and keeps what they stand for."""

    def __init__(self) -> None:
        self.parts: list[_Part] = []
        self._count = 0

    def on_message(self, message: Message) -> Message:
        """The message with marks in place of its strings, and without its images."""
        content = message["content"]
        marked = {
            "role": message["role"],
            "content": [self._on_item(item, message) for item in content]
            if isinstance(content, list)
            else self._on_part(content, message, "content"),
        }
        return marked | {key: self._on_part(message[key], message, key) for key in message if key not in marked}

    def _on_item(self, item: Any, message: Message) -> Any:
        if not isinstance(item, dict):
            return self._on_part(item, message, "content")
        if item["type"] != "text":
            return {"type": item["type"]}
        return item | {"text": self._on_part(item["text"], message, "content")}

    def _on_part(self, value: Any, message: Message, key: str) -> Any:
        part = _Part(message, key)
        marked = self._on(value, part)
        if part.texts:
            self.parts.append(part)
        return marked

    def _on(self, value: Any, part: _Part) -> Any:
        if isinstance(value, str) and value.strip():
            part.texts[self._count] = value.strip()
            self._count += 1
            return f"\ue000{self._count - 1}\ue001"
        if isinstance(value, list | tuple):
            return [self._on(item, part) for item in value]
        if isinstance(value, dict):  # a type says what its neighbours are, and a template compares it
            return {key: item if key == "type" else self._on(item, part) for key, item in value.items()}
        return value


def _lost(parts: list[_Part], used: set[int], prompt: str, rendered: str) -> list[_Part]:
    """Those without a mark that was used, and without a text that is in the prompt on its own account.

    A template may look at what a text says before it uses it: then the prompt has the text more often than the template itself
    and the other texts do.
    """
    bare = [part for part in parts if not used.intersection(part.texts)]
    if not bare:
        return []
    kept = [text for part in parts for number, text in part.texts.items() if number in used]

    def is_in_prompt(text: str) -> bool:
        return prompt.count(text) > rendered.count(text) + sum(other.count(text) for other in kept)

    return [part for part in bare if not any(is_in_prompt(text) for text in part.texts.values())]


def _sentence(lost: _Part, others_used: bool) -> str:
    role, content = f"which a message of the role {lost.message['role']!r:.40} has", lost.message["content"]
    if lost.key != "content":
        return f"The chat template leaves out {lost.key!r:.60}, {role}. Leave it out, or put what it says into the content."
    if isinstance(content, str) and not others_used:
        why, advice = "because this message's content is a string", 'Give a list: [{"type": "text", "text": ...}]'
    elif isinstance(content, list) and any(isinstance(item, str) for item in content):
        why, advice = "because it stands in the content as a string", 'Give {"type": "text", "text": ...} in its place'
    else:
        why, advice = role, "Put it into a message that the template uses"
    return f"The chat template leaves out the text {next(iter(lost.texts.values()))!r:.60}, {why}. {advice}."
