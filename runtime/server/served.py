"""A model and its scheduler, from loading to closing."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from threading import RLock, Thread
from typing import Literal

from PIL import Image

from ..errors import Cancelled, Idefics2OnnxError, PromptTooLongError
from ..folder import DEMO
from ..generation.scheduler import Scheduler
from ..vision_language_model import VisionLanguageModel
from .budget import Budget
from .metrics import Metrics
from .picture_url import PictureUrls
from .problem import Problem, log
from .settings import Settings

State = Literal["loading", "ready", "closing", "failed"]
_SICK = 3
"""Failures one after another: a decoder that fails for each request is dead, though it is tried again."""
_LONGEST_WAIT = 60
"""Seconds that a client is told to wait at most before it tries again."""


class Served:
    """What all requests of a server share.

    Attributes:
        state: loading until a first answer was computed; failed where there was none.
        failure: why it failed.
        under_way: requests that are being answered.
        failures: requests that failed by our own fault since the last that came to an answer.
        drawing: how many pictures are decoded at once, besides the scheduler's.
    """

    def __init__(self, model: VisionLanguageModel | Callable[[], VisionLanguageModel], settings: Settings) -> None:
        self.settings, self.metrics, self.budget = settings, Metrics(), Budget(settings.max_held)
        self.urls = PictureUrls(settings.allow_image_urls)
        self.state: State = "loading"
        self.failure: Exception | None = None
        self.under_way = self.failures = 0
        self.drawing = asyncio.Semaphore(1)
        self._model, self._longest = model, 0
        self._scheduler: Scheduler | None = None
        self._usual_seconds = 1.0
        self._changing = RLock()  # a signal's handler may come upon one that is at it
        self._loading = Thread(target=self._load, name="load", daemon=True)

    def start(self) -> None:
        """Load in a thread of its own, and compute a first answer."""
        self._loading.start()

    @property
    def model(self) -> VisionLanguageModel:
        assert isinstance(self._model, VisionLanguageModel), "`check_open` comes first"
        return self._model

    @property
    def scheduler(self) -> Scheduler:
        assert self._scheduler is not None, "`check_open` comes first"
        return self._scheduler

    @property
    def name(self) -> str:
        """What clients call the model."""
        if self.settings.name is not None:
            return self.settings.name
        path = self.model.folder.path
        return "idefics2-demo" if path == DEMO else path.resolve().name

    @property
    def is_alive(self) -> bool:
        """Whether requests may come to an answer, now or once it is loaded."""
        return self.state != "failed" and (self._scheduler is None or self.state == "closing" or self._scheduler.is_alive)

    @property
    def is_healthy(self) -> bool:
        """Whether they do: not where one after the other has failed."""
        return self.is_alive and self.failures < _SICK

    def check_open(self) -> None:
        """Problem 503 while no request can be taken."""
        if self.state == "loading":
            raise Problem(503, "The model is being loaded. Try again soon.", "loading", retry_after=2)
        if self.state == "closing":
            raise Problem(503, "The server is shutting down. Try again soon.", "shutting_down", retry_after=5)
        if not self.is_alive:
            raise Problem(503, "The model does not answer any more. Its server has to be started again.", "model_died")

    def check_name(self, asked: str | None) -> None:
        """Problem 404 for another model's name."""
        if asked is not None and asked != self.name and not self.settings.any_model:
            raise Problem(
                404,
                f"There is no model {asked!r:.200} here. The one that is served is {self.name!r:.200}.",
                "model_not_found",
                "model",
            )

    def check_length(self, texts: Iterable[str]) -> None:
        """PromptTooLongError for texts of so many characters that no tokenizer could make a prompt of them that fits."""
        if (length := sum(map(len, texts))) > self._longest:
            raise PromptTooLongError(
                f"The prompt's texts have {length:,} characters, more than the {self._longest:,} that the model's "
                f"{self.model.engine.sizes.max_positions:,} tokens can hold. Send less."
            )

    def note_seconds(self, seconds: float) -> None:
        """Learn how long requests take."""
        self._usual_seconds += 0.1 * (seconds - self._usual_seconds)

    @property
    def retry_after(self) -> int:
        """Seconds in which about half of the queue will have been answered."""
        waves = self.settings.queue / (2 * self.settings.rows)
        return min(_LONGEST_WAIT, max(1, math.ceil(waves * self._usual_seconds)))

    def close_doors(self) -> None:
        """Take no more requests; those that were taken go on."""
        with self._changing:
            if self.state != "failed":
                self.state = "closing"

    def close(self, timeout: float | None = None) -> None:
        """Take no more requests, finish those that were taken, and after so many seconds cancel them."""
        self.close_doors()
        if self._scheduler is not None:
            self._scheduler.close(timeout)

    def _load(self) -> None:
        try:
            if not isinstance(self._model, VisionLanguageModel):
                self._model = self._model()
            if self._is_closed():
                return
            settings, model = self.settings, self._model
            model.options.check_one_answer()
            longest_token = max(map(len, model.processor.tokenizer.get_vocab()))
            self._longest = longest_token * model.engine.sizes.max_positions
            self._scheduler = Scheduler(model, rows=settings.rows, queue=settings.queue, cache_bytes=settings.cache_bytes)
            if self._is_closed():  # since: one of the two threads sees the other's
                self._scheduler.close(0)
                return
            self._show(self._scheduler, model)
            picture = Image.new("RGB", (64, 64))
            self._scheduler.submit("<image>", [picture], raw=True, max_new_tokens=1).result()
        except Cancelled:  # it is being closed
            return
        except Exception as error:
            if self._is_closed():  # a scheduler that was closed takes no request
                return
            self.state, self.failure = "failed", error
            ours = isinstance(error, Idefics2OnnxError)
            log.error("The model cannot be served: %s", error, exc_info=None if ours else error)
            return
        with self._changing:
            if self.state == "loading":
                self.state = "ready"

    def _is_closed(self) -> bool:
        """Whether another thread has called `close` meanwhile."""
        return self.state == "closing"

    def _show(self, scheduler: Scheduler, model: VisionLanguageModel) -> None:
        """Have metrics look at what grows and shrinks."""
        gauge, prefixes, engine = self.metrics.gauge, model.prefix_cache, model.engine
        gauge("num_requests_running", "Answers that are running.", lambda: scheduler.running)
        gauge("num_requests_waiting", "Requests that wait, or whose images are being encoded.", lambda: scheduler.waiting)
        gauge(
            "kv_cache_usage_perc",
            "Share of its budget that the key/value cache takes, up to 1.",
            lambda: scheduler.cache_bytes / scheduler.cache_budget,
        )
        gauge("kv_cache_bytes", "Bytes of the key/value cache.", lambda: scheduler.cache_bytes)
        gauge("kv_cache_budget_bytes", "Bytes that it may take.", lambda: scheduler.cache_budget)
        gauge("mm_cache_bytes", "Bytes of known image features.", lambda: engine.feature_cache.nbytes)
        gauge("prefix_cache_bytes", "Bytes of known prefixes.", lambda: 0 if prefixes is None else prefixes.nbytes)
        gauge("held_bytes", "Bytes of bodies and pictures of requests that are under way.", lambda: self.budget.held)
