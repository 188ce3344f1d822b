"""A turn of a conversation about pictures: question, pictures, answer, and for training where to look for it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from .pictures import Canvas, Mark

Place = tuple[int, float, float]
"""A conversation's picture by number, and the shares of its height and width above and left of a point in it."""


@dataclass(frozen=True)
class Turn:
    """A question, the pictures shown with it, and the right answer; and, for training, where to look for it."""

    question: str
    answer: str
    images: list[Image.Image] = field(default_factory=list)
    marks: list[list[Mark]] = field(default_factory=list)
    """What lies where in each image."""
    at: Place | None = None
    """What the question is about."""
    sought: dict[str, list[Place]] = field(default_factory=dict)
    """A word of the question that stands in the picture, and where its characters do."""
    read: list[Place] = field(default_factory=list)
    """Where the answer's characters stand, if they are read off the picture, in their order."""


Turns = tuple[list[Turn], list[Turn]]
"""A conversation, and other questions in the place of its last."""


def show(turn: Turn, *canvases: Canvas) -> Turn:
    return replace(turn, images=[canvas.image for canvas in canvases], marks=[canvas.marks for canvas in canvases])


def places_of(canvas: Canvas, marks: list[Mark]) -> list[Place]:
    """Where marks of the only picture lie."""
    width, height = canvas.image.size
    boxes = [mark.box for mark in marks]
    return [(0, (top + bottom) / 2 / height, (left + right) / 2 / width) for left, top, right, bottom in boxes]


def pick(random: np.random.Generator, items: Any) -> Any:
    return items[int(random.integers(len(items)))]


def pick_zoom(random: np.random.Generator) -> int:
    """Some pictures are twice as large as the model sees them whole."""
    return 2 if random.random() < 0.15 else 1
