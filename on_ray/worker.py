"""A model and its scheduler in an actor of Ray's."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from ..graphs.errors import Idefics2OnnxError
from ..runtime.engine.prefill import TOKENS_PER_CALL
from ..runtime.generation.mapping import Outcome, begin, outcome
from ..runtime.generation.scheduler import Scheduler
from .errors import RayError
from .opening import Opening

T = TypeVar("T")


class Worker:
    """Answers blocks of requests, several blocks at once, so that the scheduler's rows stay full from one block to the next."""

    def __init__(self, opening: Opening, rows: int, options: dict[str, Any]) -> None:
        """Open the model.

        Args:
            rows: answers that grow at once.
            options: as `Scheduler.submit` takes them.
        """
        self._options, self._problem = options, ""
        try:
            model = opening.open()
        except Idefics2OnnxError as error:  # Ray would start it again and again, and tell of it in pages
            self._problem = f"Node {socket.gethostname()} cannot open the model: {error}"
            return
        queue = calls_at_once(rows) * block_rows(rows)
        self._scheduler = Scheduler(model, rows=rows, queue=queue, prompt_piece=TOKENS_PER_CALL)

    def outcomes(self, items: Sequence[T], request: Callable[[T], tuple[Any, Any]]) -> Iterator[Outcome[T]]:
        """One outcome per item, in their order, which is the same when Ray asks a second time.

        Raises:
            RayError: the model could not be opened here.
        """
        if self._problem:
            raise RayError(self._problem)
        begun = [begin(self._scheduler, request, item, self._options) for item in items]
        for index, (item, handle) in enumerate(zip(items, begun, strict=True)):
            yield outcome(index, item, handle)


def block_rows(rows: int) -> int:
    """How many requests a block has: a block is lost with its actor, and costs Ray some milliseconds of its own."""
    return max(1, rows // 4)


def calls_at_once(rows: int) -> int:
    """How many blocks an actor has at once: twice as many requests as rows, so that some are prepared while others run."""
    return -(-2 * rows // block_rows(rows))
