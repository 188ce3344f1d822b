"""One run of a graph: Ctrl-C ends it, its memory goes back, and its errors become sentences."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ...graphs.contract import GraphName, graph_file
from ..devices.device import CUDA, TENSORRT
from ..errors import Cancelled, ProviderError, first_line
from ..parallel import wait_for
from .interruption import Interruption

if TYPE_CHECKING:
    import onnxruntime as ort

NOT_RECORDED = -1
"""What ONNX Runtime calls a run that is no part of a CUDA graph."""
_SPOILT = ("during capture", "CUDNN_BACKEND_API_FAILED")
"""What CUDA says of a recording that came to nothing, and ONNX Runtime of cuDNN's."""
_turns: WeakKeyDictionary[Any, AbstractContextManager[Any]] = WeakKeyDictionary()
_making = threading.Lock()


def run(
    graph: GraphName,
    session: ort.InferenceSession,
    binding: ort.IOBinding,
    interruptible: bool = True,
    recording: int = NOT_RECORDED,
    interruption: Interruption | None = None,
) -> None:
    """Run a bound graph; ProviderError if ONNX Runtime cannot, Cancelled if an interruption came.

    An image or a long prompt may take minutes, and Python hears of Ctrl-C only between two calls: the main thread waits for
    such a call in another one, and ends it. That costs some 50 µs, so single steps do without. Such a call also gives the memory
    of its intermediate results back when it is over.

    `recording` is the number of a CUDA graph to record and play back, in a session that was opened for them.

    cuDNN records some work of its own when sizes are new to it, which another thread's call to CUDA can spoil: then the run is
    made once more. It writes the same numbers to the same places.
    """
    import onnxruntime as ort

    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(recording))
    if interruptible and _has_arena(session):  # or else each graph would hold on to the most it ever needed
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    apart = interruptible and threading.current_thread() is threading.main_thread()
    once: Callable[..., None] = partial(_run_interruptibly, session) if apart else session.run_with_iobinding
    failed: Exception | None = None
    try:
        with turn(session), interruption.over(options) if interruption is not None else nullcontext():
            try:
                once(binding, options)
            except Exception as error:
                if recording != NOT_RECORDED or not any(words in str(error) for words in _SPOILT):
                    raise
                once(binding, options)
    except Exception as error:  # onnxruntime's errors share no base but Exception
        failed = error
    if interruption is not None and interruption.came:  # one that was ended says so, or comes back with half of its results
        raise Cancelled("The request was cancelled while its images were being encoded.") from failed
    if failed is not None:
        raise ProviderError(
            f"ONNX Runtime could not run {graph_file(graph)} ({first_line(failed):.300}). "
            "If memory ran out, use fewer or unsplit images; else check the folder with `idefics2-onnx verify`."
        ) from failed


def turn(session: Any) -> AbstractContextManager[Any]:
    """One thread at a time in a session on a GPU; on the CPU as many as come.

    Some of ONNX Runtime's CUDA kernels keep the sizes of a call in the session (Conv does), so that two calls at once fail, or
    worse: microsoft/onnxruntime issues 3828, 15154 and 18854.
    """
    found = _turns.get(session)
    if found is None:
        with _making:
            on_gpu = session.get_providers()[0] in (CUDA, TENSORRT)
            found = _turns.setdefault(session, threading.Lock() if on_gpu else nullcontext())
    return found


def _has_arena(session: Any) -> bool:
    """Whether ONNX Runtime keeps memory for the next run; other sessions refuse to give any back."""
    return hasattr(session, "get_session_options") and bool(session.get_session_options().enable_cpu_mem_arena)


def _run_interruptibly(session: ort.InferenceSession, binding: ort.IOBinding, options: ort.RunOptions) -> None:
    running: list[Future[None]] = []
    try:
        running.append(_runner().submit(session.run_with_iobinding, binding, options))
        wait_for(running)
    except KeyboardInterrupt:
        options.terminate = True  # ends it at the next operator
        wait_for(running)
        raise
    running[0].result()


@cache
def _runner() -> ThreadPoolExecutor:
    """The thread that works for the main one; always the same, because CUDA makes streams and handles for each."""
    return ThreadPoolExecutor(1, thread_name_prefix="idefics2-onnx-run")


if hasattr(os, "register_at_fork"):  # threads do not outlive a fork: the child makes its own
    os.register_at_fork(after_in_child=_runner.cache_clear)
