"""Text of a conversation that a chat template does not use, so that the model would answer another prompt without a word."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from .errors import PromptError
from .prompt import Message

_MARK = re.compile(r"(?:\ue000|\\ue000)(\d+)(?:\ue001|\\ue001)")
"""A text's number between two characters that belong to nobody, as they are or as JSON writes them."""
_SHAPES = 32


class LostText:
    """Finds it by rendering once more with a mark in place of each text: a text itself may stand in the prompt by chance.

    Args:
        render: makes text of messages and whether a generation prompt is added.
    """

    def __init__(self, render: Callable[[list[Message], bool], str]) -> None:
        self._render = render
        self._rendered: dict[tuple[str, bool], str] = {}  # by what is rendered: conversations of one shape share it

    def check(self, messages: list[Message], add_generation_prompt: bool, prompt: str) -> None:
        """Raise PromptError if a text of the messages is not in the prompt that was rendered of them."""
        texts = [text for message in messages for text in _texts(message) if text.strip()]
        numbers = iter(range(len(texts)))
        rendered = self._with_marks([_marked(message, numbers) for message in messages], add_generation_prompt)
        if rendered is None:  # the template does not take marks for text
            used, lost = set(), [text for text in texts if text.strip() not in prompt]
        else:
            used = {int(number) for number in _MARK.findall(rendered)}
            lost = [] if len(used) == len(texts) else _lost(texts, used, prompt, rendered)
        if lost:
            raise PromptError(_sentence(messages, lost[0], bool(used)))

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


def _texts(message: Message) -> Iterator[str]:
    content = message["content"]
    for item in content if isinstance(content, list) else [content]:
        text = item.get("text") if isinstance(item, dict) and item["type"] == "text" else item
        if isinstance(text, str):
            yield text


def _marked(message: Message, numbers: Iterator[int]) -> Message:
    """The message with marks in place of its texts, and without its images."""
    content = message["content"]
    if not isinstance(content, list):
        return message | {"content": _mark(content, numbers)}
    return message | {
        "content": [
            _mark(item, numbers)
            if not isinstance(item, dict)
            else item | {"text": _mark(item["text"], numbers)}
            if item["type"] == "text"
            else {"type": item["type"]}
            for item in content
        ]
    }


def _mark(text: Any, numbers: Iterator[int]) -> Any:
    return f"\ue000{next(numbers)}\ue001" if isinstance(text, str) and text.strip() else text


def _lost(texts: list[str], used: set[int], prompt: str, rendered: str) -> list[str]:
    """Texts whose marks are missing and that are not in the prompt on their own account.

    A template may look at what a text says before it uses it: then the prompt has the text more often than the template itself
    and the other texts do.
    """
    kept = [text for number, text in enumerate(texts) if number in used]
    bare = [text.strip() for number, text in enumerate(texts) if number not in used]
    return [text for text in bare if prompt.count(text) <= rendered.count(text) + sum(other.count(text) for other in kept)]


def _sentence(messages: list[Message], lost: str, others_used: bool) -> str:
    message = next(message for message in messages if lost.strip() in (text.strip() for text in _texts(message)))
    content = message["content"]
    if isinstance(content, str) and not others_used:
        why, advice = "because this message's content is a string", 'Give a list: [{"type": "text", "text": ...}]'
    elif isinstance(content, list) and any(isinstance(item, str) for item in content):
        why, advice = "because it stands in the content as a string", 'Give {"type": "text", "text": ...} in its place'
    else:
        why, advice = f"which a message of the role {message['role']!r:.40} has", "Put it into a message that the template uses"
    return f"The chat template leaves out the text {lost.strip()!r:.60}, {why}. {advice}."
