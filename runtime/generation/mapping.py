"""Answers to any number of items, from an iterable that may have no end: continuous batching, with a bounded look ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Generator as Steps
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from ..engine.prefill import TOKENS_PER_CALL
from ..errors import PromptError
from .answer import Generation
from .handle import Handle
from .loaded_model import LoadedModel
from .scheduler import Scheduler

Item = TypeVar("Item")
_HEARING = 0.1
"""Seconds between looks for a Ctrl-C, which Windows does not tell a thread that waits without a limit."""


@dataclass(frozen=True)
class Outcome(Generic[Item]):
    """What became of one item: an answer, or else an error.

    Attributes:
        index: its place among the items, from 0.
    """

    index: int
    item: Item
    answer: Generation | None
    error: Exception | None


def outcomes(
    model: LoadedModel,
    items: Iterable[Item],
    request: Callable[[Item], tuple[Any, Any]],
    *,
    ordered: bool,
    rows: int,
    **options: Any,
) -> Steps[Outcome[Item], None, None]:
    """One outcome per item; closed early, it cancels what runs.

    Twice as many requests as rows are under way, half of them prepared while the others run, and in order as many again may wait
    for an earlier one. An error of the iterable itself is raised behind the outcomes of the items before it.

    Args:
        request: an item's prompt and images; what it raises is that item's error.
        options: as `Scheduler.submit` takes them.
    """
    left, broken, more = iter(items), None, True
    taken: dict[int, tuple[Item, Handle | Exception]] = {}  # by index, the oldest first
    over: SimpleQueue[int] = SimpleQueue()
    finished: dict[int, None] = {}  # the first to finish first
    count = 0
    with Scheduler(model, rows=rows, queue=4 * rows, prompt_piece=TOKENS_PER_CALL) as scheduler:
        while more or taken:
            room = more and len(taken) - len(finished) < 2 * rows and len(taken) < 4 * rows
            if room:  # for one item: one that takes long to come holds up no outcome for longer
                try:
                    item = next(left)
                except StopIteration:
                    more = False
                except Exception as error:
                    more, broken = False, error
                else:
                    taken[count] = item, begin(scheduler, request, item, options, partial(over.put, count))
                    count += 1
            while not over.empty():
                finished[over.get()] = None
            first = next(iter(taken if ordered else finished), None)
            if first is not None and first in finished:
                del finished[first]
                yield outcome(first, *taken.pop(first))
            elif not room:
                with suppress(Empty):
                    finished[over.get(timeout=_HEARING)] = None
    if broken is not None:
        raise broken


def begin(
    scheduler: Scheduler,
    request: Callable[[Item], tuple[Any, Any]],
    item: Item,
    options: dict[str, Any],
    when_over: Callable[[], None] = lambda: None,
) -> Handle | Exception:
    """Submit an item, without waiting; or what is wrong with it."""
    try:
        prompt, images = request(item)
        handle = scheduler.submit(prompt, images, **options)
    except Exception as error:
        when_over()
        return error
    handle.when_over(when_over)
    return handle


def outcome(index: int, item: Item, begun: Handle | Exception) -> Outcome[Item]:
    """Wait for what `begin` began."""
    if isinstance(begun, Exception):
        return Outcome(index, item, None, begun)
    try:
        return Outcome(index, item, begun.result(), None)
    except Exception as error:
        return Outcome(index, item, None, error)


def pair(item: Any) -> tuple[Any, Any]:
    """An item that is a prompt with its images."""
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise PromptError(
            f"An item is a {type(item).__name__}, and without a prompt for all of them each is a pair. Give prompt=…, or items "
            "(prompt, images)."
        )
    return item[0], item[1]
