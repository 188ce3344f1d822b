"""One message of a conversation: the images inside it, and its copies with images read, copied or written out."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ImageError, PromptError
from ..images.source import ImageUrl, read_image
from ..outside.hosts import AllowUrls
from ..text.prompt import IMAGE_URL_ITEMS, TEXT_TYPES, Message, check_image_count, user_turn, with_tags


def images_in(messages: list[Message]) -> list[Any]:
    """The images that lie inside the messages, in order.

    An address (`url`, and what OpenAI's items have as `image_url`) becomes an ImageUrl, which no file is read for.
    """
    found: list[Any] = []
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        for item in content if isinstance(content, list) else []:
            if isinstance(item, dict) and item.get("type") == "image":
                key = next((key for key in ("image", "url", "path", "base64") if item.get(key) is not None), None)
                if key == "url" and isinstance(item[key], str | Path):
                    found.append(ImageUrl(item[key]))
                elif key is not None:
                    bare = key == "base64" and not str(item[key]).startswith("data:")
                    found.append(f"data:image/*;base64,{item[key]}" if bare else item[key])
            elif isinstance(item, dict) and item.get("type") in IMAGE_URL_ITEMS:
                url = item.get("image_url")
                found.append(ImageUrl(url.get("url") if isinstance(url, dict) else url))
    return found


def turn_with_images(text: str, images: Sequence[Any]) -> list[Message]:
    """A user's message with its images inside."""
    check_image_count(with_tags(text, len(images)), len(images))
    (message,) = user_turn(text, len(images))
    own = iter(images)
    items = [{"type": "image", "image": next(own)} if item["type"] == "image" else item for item in message["content"]]
    return [message | {"content": items}]


def with_images_read(message: Message, allow_urls: AllowUrls, upright: bool) -> Message:
    """A message of the caller's with its images read, so that neither files nor arrays nor lists may change it later."""
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        return message
    items: list[dict[str, Any]] = []
    for item in content:
        images = images_in([{"content": [item]}])
        if images:
            items.append({"type": "image", "image": read_image(images[0], allow_urls, upright)})
        elif isinstance(item, dict) and item.get("type") in TEXT_TYPES and isinstance(item.get("text"), str):
            items.append({"type": "text", "text": item["text"]})
        else:
            raise PromptError(
                f'A message holds {item!r:.60}. Give {{"type": "text", "text": …}} or {{"type": "image", "image": …}}.'
            )
    return message | {"content": items}


def copy_of(message: Message) -> Message:
    """A message whose lists and dicts are its own."""
    content = message.get("content")
    return message | ({"content": [dict(item) for item in content]} if isinstance(content, list) else {})


def as_json(message: Message) -> Message:
    """A message as JSON takes it."""
    content = message["content"]
    if not isinstance(content, list):
        return message
    items = [item | {"image": _data_url(item["image"])} if item["type"] == "image" else item for item in content]
    return message | {"content": items}


def _data_url(image: bytes | Image.Image | NDArray[Any]) -> str:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ImageError(
                f"An image array of the chat is {image.dtype} {list(image.shape)}, which no image file holds. "
                "Give uint8 [height, width, 3], a Pillow image or a file."
            )
        image = Image.fromarray(image)
    if isinstance(image, Image.Image):
        file = io.BytesIO()
        image.save(file, "PNG")
        image = file.getvalue()
    return f"data:image/*;base64,{base64.b64encode(image).decode()}"
