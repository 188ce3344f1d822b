"""A loop over independent pieces of work, on all cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="idefics2-onnx-image")


if hasattr(os, "register_at_fork"):  # threads do not outlive a fork: the child makes its own
    os.register_at_fork(after_in_child=_threads.cache_clear)


def in_parallel(function: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """[function(item) for item in items], in threads: Pillow and NumPy let go of the interpreter in their loops.

    Not to be called from `function`, whose thread would wait for one of its own pool.
    """
    items = list(items)
    return [function(items[0])] if len(items) == 1 else list(_threads().map(function, items))
