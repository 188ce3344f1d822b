"""What a chat template may do: steps, counted while it renders.

A template is a stranger's program. Everything that it does is charged before it is done, or, where the work is bounded by what
was charged before, right after: 64 steps for each call and each list of statements that runs, 32 for each node of the syntax tree
in it, 1 for each character that is read or written, 8 for each element of a list. A step takes nanoseconds and a few bytes, so
the constant below is good for some seconds and some hundred megabytes at the worst. The rest grows with the conversation, so that
no honest template meets the limit on a long one.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from contextvars import ContextVar
from typing import Any

from ...graphs.errors import ModelFolderError

CALL, NODE, ELEMENT = 64, 32, 8
"""Steps."""
_STEPS = 50_000_000
_STEPS_PER_SIZE, _STEPS_PER_CONTAINER = 20, 64_000
"""For a conversation's characters, and for each dict and list in it: the largest known templates have 1,500 nodes per message."""
_CONTAINERS = (list, tuple, dict)


class Meter:
    """The steps that one rendering has left.

    Args:
        messages: what is rendered, of plain types.
    """

    def __init__(self, messages: list[Any]) -> None:
        # A container's size and depth by its identity; it is kept, so that the identity stays its own, and cannot change.
        self._known: dict[int, tuple[Any, int, int]] = {}
        self.budget = 1 << 62
        size = self.size(messages)
        self.budget = self._left = _STEPS + _STEPS_PER_SIZE * size + _STEPS_PER_CONTAINER * len(self._known)

    def charge(self, steps: int) -> bool:
        """Take steps away; True, or ModelFolderError if there are not as many left."""
        self._left -= steps
        if self._left < 0:
            raise ModelFolderError(
                f"The chat template takes more than {self.budget:,} steps for these messages. Correct the template of the model "
                "folder, or pass raw text with raw=True."
            )
        return True

    def size(self, value: Any) -> int:
        """Characters and elements of a value written out: what is in it several times counts as often."""
        if isinstance(value, str):
            return len(value)
        if isinstance(value, _CONTAINERS):
            return self._measured(value)[1]
        if isinstance(value, int):
            return 1 + value.bit_length() // 8
        if isinstance(value, KeysView | ValuesView | ItemsView):
            return self.size(list(value))
        return len(value) if isinstance(value, range) else 1

    def depth(self, value: Any) -> int:
        """How many containers lie in each other."""
        return self._measured(value)[2] if isinstance(value, _CONTAINERS) else 0

    def text_size(self, value: Any) -> int:
        """An estimate of the characters of str(value): strings in containers are written with escapes."""
        size = self.size(value)
        return size if isinstance(value, str) else 4 * size

    def _measured(self, value: Any) -> tuple[Any, int, int]:
        known = self._known.get(id(value))
        if known is not None:
            return known
        size, depth = 1, 0
        for child in (*value.keys(), *value.values()) if type(value) is dict else value:
            size += ELEMENT + self.size(child)
            depth = max(depth, self.depth(child))
            if size > self.budget:
                self.charge(size)
        self._known[id(value)] = measured = (value, size, depth + 1)
        return measured


METER: ContextVar[Meter] = ContextVar("meter")
"""The meter of the rendering that goes on."""


class Flow(Iterator[Any]):
    """What a filter yields piece by piece, charged by the element."""

    def __init__(self, meter: Meter, elements: Iterator[Any], steps: int, depth: int) -> None:
        self._meter, self._elements, self._steps, self.depth = meter, elements, CALL + steps, depth

    def __next__(self) -> Any:
        self._meter.charge(self._steps)
        return next(self._elements)


def held(value: Any) -> Any:
    """The elements that a filter yields as a list, anything else as it is."""
    return list(value) if isinstance(value, Flow) else value
