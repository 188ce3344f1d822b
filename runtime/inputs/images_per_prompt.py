"""Images as a caller nests them → one list per prompt."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from ..errors import PromptError
from ..image_tokens import IMAGE
from ..images.image_processor import nested
from ..images.source import ImageSource


def share_images(texts: Sequence[str], images: Any) -> list[list[ImageSource]]:
    """Images in any of the accepted nestings → one list per prompt; a flat list is shared out by the prompts' tags."""
    if images is None:
        return [[] for _ in texts]
    lists = nested(images)
    flat = not (isinstance(images, list | tuple) and images and isinstance(images[0], list | tuple))
    if flat and len(texts) > 1:
        ends = list(accumulate((text.count(IMAGE) for text in texts), initial=0))
        if ends[-1] != len(lists[0]):
            raise PromptError(
                f"The prompts have {ends[-1]} {IMAGE} together but {len(lists[0])} images were given. "
                f"Put one {IMAGE} per image, or give one list of images per prompt."
            )
        return [lists[0][start:stop] for start, stop in pairwise(ends)]
    if len(lists) != len(texts):
        raise PromptError(f"There are {len(texts)} prompts but {len(lists)} lists of images. Give one list per prompt.")
    return lists
