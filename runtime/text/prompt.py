"""Prompt text: image tags, their expansion to tokens, and one user turn of a chat.

Source of the expansion: transformers 5.23, Idefics2Processor.__call__.
"""

from __future__ import annotations

import re
from typing import Any, TypeAlias

from ..errors import PromptError
from ..image_tokens import FAKE_IMAGE, IMAGE, tiles_per_image

Message: TypeAlias = dict[str, Any]
"""One turn in the reference's chat format: {"role": …, "content": text or a list of {"type": "text" | "image", …}}."""

IMAGE_URL_ITEMS = ("image_url", "input_image")
"""Types of items of a message that hold an image's address, as OpenAI's two interfaces write it."""
TEXT_TYPES, _IMAGE_TYPES = ("text", "input_text"), ("image", *IMAGE_URL_ITEMS)
"""Types of items in a message's content; those with a prefix or suffix are OpenAI's."""

_CLOSING_FAKE = re.compile(rf"{re.escape(FAKE_IMAGE)}(?=[^\s<])")


def expand_images(text: str, image_seq_len: int, split: bool) -> str:
    """Replace each image tag by its tokens; neighbouring images share the fake token between them."""
    image = f"{FAKE_IMAGE}{IMAGE * image_seq_len}{FAKE_IMAGE}" * tiles_per_image(split)
    text = text.replace(IMAGE, image).replace(FAKE_IMAGE * 2, FAKE_IMAGE)
    # transformers 5 parts a word from the closing token by a space; older versions and other ports do not.
    return _CLOSING_FAKE.sub(f"{FAKE_IMAGE} ", text)


def with_tags(text: str, num_images: int) -> str:
    """The text itself if it has image tags, else with one tag per image before it."""
    return text if IMAGE in text else IMAGE * num_images + text


def user_turn(text: str, num_images: int) -> list[Message]:
    """A conversation of one user turn; tags become image items, so that a template can treat a leading image specially."""
    content: list[dict[str, str]] = []
    for index, part in enumerate(with_tags(text, num_images).split(IMAGE)):
        if index:
            content.append({"type": "image"})
        if part:
            content.append({"type": "text", "text": part})
    return [{"role": "user", "content": content or [{"type": "text", "text": ""}]}]


def check_messages(messages: list[Message]) -> None:
    """Raise PromptError for what is no message, and for content that no template would find."""
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str) or "content" not in message:
            raise PromptError(f'A message is {_shown(message)}. Give {{"role": "user", "content": [...]}}.')
        content = message["content"]
        if "text" in message:
            raise PromptError(f"A message has the text {_shown(message['text'])} beside its content. Put it into the content.")
        if not isinstance(content, str | list | None):
            raise PromptError(f"A message's content is {_shown(content)}. Give text, or a list of items.")
        for item in content if isinstance(content, list) else []:
            _check_item(item)


def with_plain_items(messages: list[Message]) -> list[Message]:
    """The messages with OpenAI's items as the reference's: input_text is text, image_url and input_image are images."""
    return [
        message | {"content": [_plain_item(item) for item in message["content"]]}
        if isinstance(message["content"], list)
        else message
        for message in messages
    ]


def _plain_item(item: Any) -> Any:
    if not isinstance(item, dict):
        return item
    if item["type"] in TEXT_TYPES:
        return item | {"type": "text"}
    return {"type": "image"} if item["type"] in IMAGE_URL_ITEMS else item


def _check_item(item: Any) -> None:
    """A string is one, too: the template says whether it is used."""
    if isinstance(item, str):
        return
    kind = item.get("type") if isinstance(item, dict) else None
    if not isinstance(kind, str) or kind not in TEXT_TYPES + _IMAGE_TYPES:
        what = f"{_shown(item)}, which has no type" if kind is None else f"of the type {_shown(kind)}"
        raise PromptError(
            f"A message's content has an item {what}. Give one of the types {', '.join(TEXT_TYPES + _IMAGE_TYPES)}."
        )
    if kind in TEXT_TYPES and not isinstance(item.get("text"), str):
        raise PromptError(
            f'A message\'s content has the item {_shown(item)} without a text. Give {{"type": "text", "text": ...}}.'
        )
    others = ("content", "input_text") if kind in TEXT_TYPES else ("text", "content", "input_text")
    lost = next((key for key in others if item.get(key) is not None and not _is_empty(item[key])), None)
    if lost is not None:
        raise PromptError(
            f"An item of the type {kind!r:.60} has {_shown(item[lost])} under {lost!r:.60}, which no template uses. Give it as "
            "an item of its own, of the type 'text'."
        )


def _is_empty(value: Any) -> bool:
    return isinstance(value, str) and not value


def _shown(value: Any) -> str:
    """The start of a value written out: what a caller gave may fail at that."""
    try:
        return f"{value!r:.60}"
    except Exception:  # a number of too many digits, a list in itself, any object's own
        return f"a {type(value).__name__}"


def check_text(text: str) -> None:
    """Raise PromptError for a string that holds half of a character, as a command line that is not UTF-8 gives."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(f"The prompt is not valid Unicode at character {error.start}. Type it again in UTF-8.") from error


def check_image_count(text: str, num_images: int) -> None:
    """Raise PromptError unless there is one tag per image."""
    tags = text.count(IMAGE)
    if tags != num_images:
        were = "image was" if num_images == 1 else "images were"
        raise PromptError(f"The prompt has {tags} {IMAGE} but {num_images} {were} given. Put one {IMAGE} per image.")
