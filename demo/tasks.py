"""What the demo model is asked: pictures with questions and their one right answer, made from a task, a set and a number.

Nothing is stored: the same three give the same case, wherever the same Pillow and fonts draw
it: with raqm and without, it lays out some texts otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from . import scenes, texts
from .turn import Turn, Turns

Set = Literal["training", "held-out"]
_SETS: dict[str, int] = {"training": 0, "held-out": 1}


@dataclass(frozen=True)
class Case:
    """A conversation; the answer to its last question counts."""

    task: str
    turns: list[Turn]
    others: list[Turn] = field(default_factory=list)
    """Other questions that training asks in the last one's place."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Up to the last question, in the reference's chat format, images inside."""
        found: list[dict[str, Any]] = []
        for turn in self.turns:
            images = [{"type": "image", "image": image} for image in turn.images]
            found.append({"role": "user", "content": [*images, {"type": "text", "text": turn.question}]})
            found.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
        return found[:-1]

    @property
    def answer(self) -> str:
        return self.turns[-1].answer


def case(task: str, which: Set, number: int, ease: float = 1.0) -> Case:
    """The case of that number; `ease` below 1 makes training's first cases simpler, from 0."""
    random = np.random.default_rng([_SETS[which], list(_TASKS).index(task), number])
    turns, others = _TASKS[task](random, ease)
    different = {turn.question: turn for turn in [*others, turns[-1]]}
    return Case(task, turns, [turn for turn in different.values() if turn is not turns[-1]])


TRAINING_ONLY = ("page", "lines")
TASKS = ("shapes", "counting", "reading", "small text", "receipt", "comparing", "follow-up", "absence")
_TASKS: dict[str, Callable[[np.random.Generator, float], Turns]] = {
    "shapes": scenes.shapes,
    "counting": scenes.counting,
    "reading": texts.reading,
    "small text": texts.small_text,
    "receipt": texts.receipt,
    "comparing": scenes.comparing,
    "follow-up": scenes.follow_up,
    "absence": scenes.absence,
    "page": texts.page,
    "lines": texts.lines,
}
"""A case follows from its task's place here: new ones go last."""
