"""Work in other threads: waiting for it, going on without it, and a loop over independent pieces on all cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from threading import Thread
from typing import Any, TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")
_HEARING = 0.1
"""Seconds."""


@cache
def _threads(use: str = "image") -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix=f"idefics2-onnx-{use}")


if hasattr(os, "register_at_fork"):  # threads do not outlive a fork: the child makes its own
    os.register_at_fork(after_in_child=_threads.cache_clear)


def wait_for(work: Sequence[Future[Any]]) -> None:
    """Wait for work in other threads; Ctrl-C is heard meanwhile.

    The system may hand a signal to any thread, and Python hears of it when the main one wakes up; on Windows it does not hear of
    it at all while it waits without a limit.
    """
    while wait(work, _HEARING).not_done:
        pass


def result_of(work: Future[_R]) -> _R:
    """What work in another thread comes to, once it is done; Ctrl-C is heard meanwhile."""
    wait_for([work])
    return work.result()


def begin(function: Callable[[], _R]) -> Future[_R]:
    """Short work beside what its caller does next. Its threads are others than those of pictures, which it would wait for."""
    return _threads("step").submit(function)


_left: list[Thread] = []


def leave(threads: Sequence[Thread]) -> None:
    """Go on without threads whose work was told to end and has not yet."""
    _left.extend(threads)


def is_work_left() -> bool:
    """Whether some of them still run; the interpreter would wait for them before it ends."""
    return any(thread.is_alive() for thread in _left)


def in_parallel(function: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """[function(item) for item in items], in threads: Pillow and NumPy let go of the interpreter in their loops.

    Not to be called from `function`, whose thread would wait for one of its own pool.
    """
    items = list(items)
    if len(items) == 1:
        return [function(items[0])]
    work = [_threads().submit(function, item) for item in items]
    try:
        wait_for(work)
        return [each.result() for each in work]
    finally:  # after Ctrl-C
        for each in work:
            each.cancel()
