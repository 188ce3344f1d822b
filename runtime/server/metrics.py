"""What a server counts and measures, in vLLM's vocabulary under our prefix, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.responses import Response

from ..generation.answer import Generation
from ..generation.handle import Handle
from .problem import Problem

PREFIX = "idefics2_onnx:"
_SHORT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_LONG = (0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0)
"""vLLM's, with the short ends that a small model needs."""


class Metrics:
    """Of one server: each has a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._rejected = self._counter("requests_rejected", "Requests that were refused, by reason.", "reason")
        self.ended = self._counter("request_success", "Requests that ended, by reason.", "finished_reason")
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts.")
        self._new_tokens = self._counter("generation_tokens", "Tokens of answers.")
        self._images = self._counter("mm_cache_queries", "Tiles of images that were looked up in the image cache.")
        self._known_images = self._counter("mm_cache_hits", "Tiles of images whose features were known.")
        self._prefixes = self._counter("prefix_cache_queries", "Tokens of prompts that were looked up in the prefix cache.")
        self._known_prefixes = self._counter("prefix_cache_hits", "Tokens of prompts whose keys and values were known.")
        self._first = self._histogram("time_to_first_token_seconds", "From a request to its first text.", _SHORT)
        self._between = self._histogram("inter_token_latency_seconds", "Between two pieces of an answer's text.", _SHORT)
        self._whole = self._histogram("e2e_request_latency_seconds", "From a request to its end.", _LONG)
        self._queue = self._histogram(
            "request_queue_time_seconds", "Before a prompt was read; images are encoded meanwhile.", _LONG
        )
        self._encoding = self._histogram("image_encoding_time_seconds", "Of encoding a request's images.", _LONG)
        self._prefill = self._histogram("request_prefill_time_seconds", "Of reading a prompt.", _LONG)
        self._decode = self._histogram("request_decode_time_seconds", "From an answer's first token to its last.", _LONG)

    def gauge(self, name: str, words: str, value: Callable[[], float]) -> None:
        """Something that is asked for its value whenever metrics are read."""
        Gauge(PREFIX + name, words, registry=self.registry).set_function(value)

    def refused(self, problem: Problem) -> None:
        """Count a request that was refused, or failed."""
        self._rejected.labels(problem.code or str(problem.status)).inc()

    def answered(self, seconds: float, started: float, handles: Sequence[Handle], answers: Sequence[Generation]) -> None:
        """Note a request that came to its end after so many seconds, having begun at a `time.perf_counter`."""
        each = len(answers) // len(handles)
        for handle, answer in zip(handles, answers[::each], strict=True):
            timings, times = answer.timings, handle.piece_times
            if times:
                self._first.observe(times[0] - started)
            if each == 1:  # the pieces of several answers come mixed
                for earlier, later in pairwise(times):
                    self._between.observe(later - earlier)
            self._queue.observe(timings.waiting)
            self._prefill.observe(timings.prefill)
            self._decode.observe(timings.decode)
            if tiles := timings.images_encoded + timings.images_reused:
                self._encoding.observe(timings.images)
                self._images.inc(tiles)
                self._known_images.inc(timings.images_reused)
            self._prompt_tokens.inc(answer.prompt_tokens)
            self._prefixes.inc(timings.prompt_tokens + timings.prompt_tokens_reused)
            self._known_prefixes.inc(timings.prompt_tokens_reused)
        self._new_tokens.inc(sum(len(answer.token_ids) for answer in answers))
        self._whole.observe(seconds)
        for answer in answers:
            self.ended.labels(answer.finish_reason).inc()

    def response(self) -> Response:
        return Response(generate_latest(self.registry), headers={"content-type": CONTENT_TYPE_LATEST})

    def _counter(self, name: str, words: str, *labels: str) -> Any:
        return Counter(PREFIX + name, words, labels, registry=self.registry)

    def _histogram(self, name: str, words: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(PREFIX + name, words, buckets=buckets, registry=self.registry)
