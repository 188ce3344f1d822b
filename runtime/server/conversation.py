"""OpenAI's messages → the model's, apart from their pictures.

Each message is built anew from what is known here, so that nothing else of a request reaches the template, and no image of a
message is anything but bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .. import checks as values
from ..image_tokens import IMAGE
from ..text.prompt import Message
from .fields import Fields, text
from .problem import Problem

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""Those of OpenAI's that a model without tools has a word for."""
_OF_ANSWERS: dict[str, tuple[Any, ...] | None] = {
    "name": None,
    "refusal": (),
    "annotations": ([],),
    "audio": (),
    "tool_calls": ([],),
    "function_call": (),
    "id": None,
}
"""What clients send back of an answer, at the values that say nothing."""


@dataclass(frozen=True)
class Picture:
    """One picture of a request: its address, or its bytes, which were uploaded."""

    source: str | bytes
    place: str
    """Where in the request it stands, for errors."""


@dataclass(frozen=True)
class Conversation:
    """Messages whose image items are still without an image, and the pictures that belong there, in order."""

    messages: list[Message]
    pictures: list[Picture]
    split: bool | None
    """Whether to split images; None is the folder's choice."""

    @property
    def texts(self) -> list[str]:
        return [item["text"] for message in self.messages for item in message["content"] if item["type"] == "text"]

    def with_images(self, images: Sequence[bytes]) -> list[Message]:
        """The messages with their images."""
        left = iter(images)
        return [
            message | {"content": [self._item(item, left) if item["type"] == "image" else item for item in message["content"]]}
            for message in self.messages
        ]

    @staticmethod
    def _item(item: dict[str, str], left: Any) -> dict[str, Any]:
        image = next(left)
        assert isinstance(image, bytes), "a path or an address would be opened"
        return item | {"image": image}


def read_conversation(
    given: Any, uploads: Sequence[bytes], detail: str | None, images_first: bool, most_messages: int, most_images: int
) -> Conversation:
    """The messages of a request; uploaded pictures, of this detail, go in front of the last user's turn. Problem 400 for what is
    wrong.

    Models were trained on turns whose images come first: with `images_first` they do, wherever a request has them.
    """
    if not isinstance(given, list) or not given:
        raise Problem(400, "messages is no list of messages. Send at least one.", "invalid_type", "messages")
    if len(given) > most_messages:
        raise Problem(
            400, f"There are {len(given):,} messages, more than {most_messages:,}. Send fewer.", "too_many_messages", "messages"
        )
    turns = [_Turn.read(message, f"messages[{index}]") for index, message in enumerate(given)]
    if uploads:
        last = next((turn for turn in reversed(turns) if turn.role == "user"), None)
        if last is None:
            raise Problem(400, "Pictures were uploaded, and no message is a user's. Send one.", "invalid_value", "messages")
        last.items[:0] = [Picture(upload, f"image[{index}]") for index, upload in enumerate(uploads)]
        last.details.append(detail or "auto")
    if images_first:
        for turn in turns:
            turn.items.sort(key=lambda item: isinstance(item, str))
    pictures = [item for turn in turns for item in turn.items if isinstance(item, Picture)]
    if len(pictures) > most_images:
        raise Problem(
            400, f"There are {len(pictures)} images, more than {most_images}. Send fewer.", "too_many_images", "messages"
        )
    details = {detail for turn in turns for detail in turn.details} - {"auto"}
    if len(details) > 1:
        raise Problem(
            400,
            "Images have detail low and detail high, and all of a request are read alike. Choose one.",
            "invalid_value",
            "messages",
        )
    return Conversation(
        [turn.message() for turn in turns], pictures, {"low": False, "high": True}[details.pop()] if details else None
    )


@dataclass
class _Turn:
    """One message."""

    role: str
    items: list[str | Picture]
    """Texts and pictures."""
    details: list[str]

    @classmethod
    def read(cls, given: Any, place: str) -> _Turn:
        fields = Fields(given, place)
        turn = cls(_ROLES[fields.required("role", values.choice(*_ROLES))], [], [])
        content = fields.take("content")
        if isinstance(content, str):
            turn.items.append(_plain(content, f"{place}.content"))
        elif isinstance(content, list) and content:
            for index, item in enumerate(content):
                turn._read_item(Fields(item, f"{place}.content[{index}]"))
        else:
            raise Problem(
                400, f"{place}.content is missing or empty. Send text, or a list of items.", "invalid_type", f"{place}.content"
            )
        fields.pass_over(_OF_ANSWERS)
        fields.end()
        return turn

    def _read_item(self, fields: Fields) -> None:
        if fields.required("type", values.choice("text", "image_url")) == "text":
            self.items.append(_plain(fields.required("text", text), fields.place("text")))
        else:
            place, address = fields.place("image_url"), fields.take("image_url")
            if not isinstance(address, str):
                inner = Fields(address, place)
                address = inner.required("url", text)
                self.details.append(inner.checked("detail", values.choice("auto", "low", "high")) or "auto")
                inner.end()
            self.items.append(Picture(address, place))
        fields.end()

    def message(self) -> Message:
        return {
            "role": self.role,
            "content": [{"type": "text", "text": item} if isinstance(item, str) else {"type": "image"} for item in self.items],
        }


def _plain(words: str, place: str) -> str:
    """A text that holds no half of a character, nor the tag that stands for an image."""
    if not words.isascii() and any("\ud800" <= letter <= "\udfff" for letter in words):
        raise Problem(400, f"{place} holds half a surrogate pair. Send whole characters.", "invalid_value", place)
    if IMAGE in words:
        raise Problem(
            400, f"{place} holds {IMAGE}, which stands for a picture. Send pictures as image_url.", "invalid_value", place
        )
    return words
