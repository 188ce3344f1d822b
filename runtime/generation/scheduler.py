"""Continuous batching: requests come and go while one decoder call after another gives every running answer a token.

A thread of the scheduler's own has the decoder and the cache to itself. Each of its turns admits what is ready, first come first
served, reads a piece of a prompt, and steps all running answers. Other threads prepare what waits: read images, encode them. What
a request may need of the cache is reserved when it is admitted, so no answer is ever cut short or begun again for want of room.
"""

from __future__ import annotations

import atexit
import logging
import time
from collections import deque
from copy import copy
from functools import partial
from threading import Condition, Thread
from traceback import clear_frames
from typing import Any

import numpy as np

from ..engine.interruption import Interruption
from ..engine.prefill import TOKENS_PER_CALL, Prompts, encode_tiles
from ..errors import Cancelled, Overloaded, PromptError
from ..inputs.request import Request, is_batch
from ..memory.key_value_cache import GROWTH
from ..memory.prefix_cache import prompt_key
from ..sampling.token_chooser import TokenChooser
from .answer import Answer
from .handle import Handle
from .job import Job
from .loaded_model import LoadedModel
from .rows import Rows

DEFAULT_ROWS, DEFAULT_QUEUE = 16, 1024
PIECE, SMALLEST_PIECE = 64, 16
"""Tokens of prompts that a CPU reads between two steps: more of them are hardly faster, and running answers wait longer."""
STEPS_PER_PIECE, SHORT = 4, 0.05
"""Where reading is slow beside stepping, as on processors without 8-bit units, a piece takes about as long as so many steps. What
takes no more than so many seconds is never cut."""
USUAL_TOKENS = 2048
"""Room that the cache has by default for each row."""
_log = logging.getLogger("idefics2_onnx")


def piece_tokens(step_seconds: float, token_seconds: float) -> int:
    """How many tokens of a prompt to read between two steps of so many seconds, if each takes so many; 0 is not known yet."""
    if not step_seconds or not token_seconds:
        return PIECE
    return min(PIECE, max(SMALLEST_PIECE, int(max(SHORT, STEPS_PER_PIECE * step_seconds) / token_seconds)))


class Scheduler:
    """Answers many requests at once with one model: each as it would be answered alone.

    It is a context manager, which finishes what it was given before it closes. Safe to use from several threads.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        rows: int = DEFAULT_ROWS,
        queue: int = DEFAULT_QUEUE,
        cache_bytes: int | None = None,
        prepare_threads: int = 2,
        prompt_piece: int | None = None,
    ) -> None:
        """Start it.

        Args:
            rows: answers that run at once at most.
            queue: requests that wait at most.
            cache_bytes: what the running answers' keys and values may take; None: room for `rows` of 2,048 tokens, and at least
                for one as long as the model takes.
            prepare_threads: how many requests are prepared at once.
            prompt_piece: tokens of prompts that are read between two steps of the running answers; None: on a CPU few enough that
                these flow. Where nobody watches them grow, 512 take the least time in all.
        """
        given = {"rows": rows, "queue": queue, "prepare_threads": prepare_threads}
        given |= {} if cache_bytes is None else {"cache_bytes": cache_bytes}
        given |= {} if prompt_piece is None else {"prompt_piece": prompt_piece}
        for name, value in given.items():
            if not isinstance(value, int) or value < 1:
                raise PromptError(f"{name} is {value!r:.60}. Give a whole number from 1.")
        self._model, self._engine = copy(model), model.engine  # a copy stays open when the model is closed
        self._max_rows, self._max_queue, self._piece = rows, queue, prompt_piece
        longest = self._engine.sizes.max_positions
        usual = max(rows * self._row_bytes(min(USUAL_TOKENS, longest), 1), self._row_bytes(longest, 1))
        self._max_bytes = usual if cache_bytes is None else cache_bytes
        self._changed = Condition()
        self._waiting: deque[Job] = deque()
        self._prepared: list[Job] = []  # being prepared or ready, in the order they came
        self._reading: Job | None = None
        self._jobs: dict[Answer, Job] = {}
        self._closing = self._cancelling = False
        self._step_seconds, self._token_seconds = 0.0, 0.0  # of the last step, and of a prompt's token in the last piece
        self._rows = Rows(self._engine, self._engine.new_cache(1, 1))
        self._threads = [Thread(target=self._prepare_all, name=f"prepare-{i}", daemon=True) for i in range(prepare_threads)]
        self._threads.append(Thread(target=self._run, name="scheduler", daemon=True))
        for thread in self._threads:
            thread.start()
        atexit.register(self.close, 0)

    def submit(
        self,
        prompt: Any,
        images: Any = None,
        *,
        raw: bool = False,
        do_image_splitting: bool | None = None,
        image_features: Any = None,
        **options: Any,
    ) -> Handle:
        """Take a request as `generate` takes one prompt, and come back at once.

        Raises:
            Overloaded: as many requests as may are waiting.
            PromptError: an option is wrong, or one that a scheduler does not take.
        """
        chosen = self._model.options.replace(**options)
        if chosen.num_beams > 1:
            raise PromptError(
                f"num_beams is {chosen.num_beams}, and a scheduler gives answers as they grow. Give num_beams=1, or use generate."
            )
        if chosen.num_return_sequences > self._max_rows:
            raise PromptError(
                f"num_return_sequences is {chosen.num_return_sequences}, and this scheduler has {self._max_rows} rows. Lower it."
            )
        if is_batch(prompt):
            raise PromptError(f"submit takes one prompt, and {len(prompt)} were given. Submit each of them.")

        chooser = TokenChooser(chosen, self._engine.sizes.vocab_size)
        read = partial(Request.read, self._model.processor, prompt, images, raw, do_image_splitting, image_features)
        with self._changed:
            if self._closing:
                raise PromptError("The scheduler is closed. Make a new one.")
            job = Job(Handle(self._cancel, self.check_room()), read, chosen, chooser)
            self._waiting.append(job)
            self._changed.notify_all()
        return job.handle

    def check_room(self) -> int:
        """How many requests are waiting; Overloaded if they are as many as may."""
        waiting = self.waiting
        if waiting >= self._max_queue:
            raise Overloaded(f"{waiting:,} requests are waiting, as many as may. Try again later.", waiting)
        return waiting

    @property
    def waiting(self) -> int:
        """Requests that are not admitted yet."""
        return len(self._waiting) + len(self._prepared)

    @property
    def running(self) -> int:
        """Answers that are running, or whose prompt is being read."""
        reading = self._reading
        return len(self._rows.answers) + (reading.rows if reading else 0)

    @property
    def cache_bytes(self) -> int:
        """What the running answers' keys and values take now."""
        return self._rows.cache.nbytes

    @property
    def cache_budget(self) -> int:
        """The most that they may take, in bytes."""
        return self._max_bytes

    @property
    def is_alive(self) -> bool:
        """Whether all of its threads run: neither was it closed, nor did one of them end by itself."""
        return all(thread.is_alive() for thread in self._threads)

    def close(self, timeout: float | None = None) -> None:
        """Take no more requests, finish those that were taken, and stop; after so many seconds, cancel what is left."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        try:
            self._threads[-1].join(timeout)
        finally:  # a Ctrl-C while it waits, too
            with self._changed:
                self._cancelling = True
                self._changed.notify_all()
            for thread in self._threads:
                thread.join()
            atexit.unregister(self.close)

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(None if kind is None else 0)

    # Any thread.

    def _cancel(self, handle: Handle) -> None:
        """End it for its owner; the threads let go of it when they come to it."""
        handle._end(None, Cancelled("The request was cancelled."))
        with self._changed:
            self._waiting = deque(job for job in self._waiting if job.handle is not handle)
            self._changed.notify_all()

    # Preparing threads.

    def _prepare_all(self) -> None:
        while (job := self._next_waiting()) is not None:
            try:
                self._prepare(job)
                job.handle._enter("ready")
            except Exception as error:  # whatever it is, it is this request's
                job.read = None
                _forget_locals(error)
                job.handle._end(None, error)
            with self._changed:
                job.ready = True
                self._changed.notify_all()

    def _next_waiting(self) -> Job | None:
        """The request to prepare next, as soon as there is one and few are prepared already; None at the end."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._cancelling or (self._waiting and len(self._prepared) < self._max_rows)
                or (self._closing and not self._waiting)
            )  # fmt: skip
            if self._cancelling or not self._waiting:
                return None
            job = self._waiting.popleft()
            self._prepared.append(job)
        job.handle._enter("preparing")
        return job

    def _prepare(self, job: Job) -> None:
        """Everything that needs no cache."""
        engine, sizes, prefixes = self._engine, self._engine.sizes, self._model.prefix_cache
        assert job.read is not None
        (sample,) = job.read().samples(engine.pixel_type)
        job.read = None
        job.limit = job.options.new_tokens(sample.tokens, sizes.max_positions)
        sample.check(sizes, job.limit)
        job.sample = sample
        needed = job.rows * self._row_bytes(job.tokens, job.images)
        if needed > self._max_bytes:
            raise PromptError(
                f"The prompt and its answers need {needed:,} bytes of keys and values, and this scheduler has "
                f"{self._max_bytes:,}. Lower max_new_tokens or num_return_sequences, or raise cache_bytes."
            )
        echoed = job.options.echo and job.options.logprobs
        if prefixes is not None and not echoed and (key := prompt_key(sample, sizes)):
            job.key, job.prefix = key, prefixes.find(key)
            sample = sample.after(job.prefix[1], sizes) if job.prefix else sample
        job.matchers = [self._model.grammars.matcher(job.options) for _ in range(job.rows)]
        job.timings.prompt_tokens_reused = sample.reused
        job.sample = sample.without_pixels()
        interruption = Interruption()
        job.handle.when_over(interruption.come)
        with engine.beside_recordings():
            features = encode_tiles(engine, [sample], job.timings, interruption)
            job.prompts = Prompts(engine, [job.sample], features, job.timings, echoed)
        for matcher in job.matchers:  # here, not between two steps of the others
            if matcher is not None:
                matcher.ready()

    # The scheduler's thread.

    def _run(self) -> None:
        while self._wait():
            try:
                self._drop_over()
                self._read_prompts()
                self._step()
            except Exception as error:  # not one request's, nor the decoder's: a fault in here
                _log.exception("The scheduler failed, and goes on without what was running.")
                self._fail_all(error)
        self._fail_all(Cancelled("The scheduler was closed before the answer was whole."))

    def _wait(self) -> bool:
        """Sleep until there is something to do; False at the end."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._rows.answers or self._reading or self._cancelling or any(job.ready for job in self._prepared)
                or (self._closing and not self._waiting and not self._prepared)
            )  # fmt: skip
            busy = self._rows.answers or self._reading or self._waiting or self._prepared
            return bool(busy) and not self._cancelling

    def _drop_over(self) -> None:
        with self._changed:
            if any(job.ready and job.is_over for job in self._prepared):
                self._prepared = [job for job in self._prepared if not (job.ready and job.is_over)]
                self._changed.notify_all()
        if self._reading is not None and self._reading.is_over:
            self._reading = None
        for answer, job in self._jobs.items():
            if job.is_over:
                answer.finish_reason = "stop"

    def _read_prompts(self) -> None:
        """One piece, of one prompt or of several short ones."""
        beside = self._rows.answers and self._engine.storage.device == "cpu"
        flowing = piece_tokens(self._step_seconds, self._token_seconds) if beside else TOKENS_PER_CALL
        left = self._piece or flowing
        while left > 0 and (job := self._reading or self._admit()):
            start = time.perf_counter()
            try:
                read = self._read_piece(job, left)
                left -= read
                self._token_seconds = (time.perf_counter() - start) / max(1, read)
            except Exception as error:  # the other rows are whole
                self._reading = None
                _end(job, error)
            job.timings.prefill += time.perf_counter() - start

    def _admit(self) -> Job | None:
        """Give rows to the first request that is ready, unless it has to wait for room."""
        with self._changed:
            job = next((job for job in self._prepared if job.ready and not job.is_over), None)
        if job is None or not self._make_room(job):
            return None
        with self._changed:
            self._prepared.remove(job)
            self._reading = job
            self._changed.notify_all()
        job.handle._enter("reading")
        job.timings.waiting = time.perf_counter() - job.submitted
        assert job.sample is not None
        tokenizer = self._model.processor.tokenizer
        job.answers = [
            Answer(0, job.sample, sequence, job.limit, job.chooser, tokenizer, job.timings, True, matcher)
            for sequence, matcher in enumerate(job.matchers)
        ]
        row, cache = len(self._rows.answers), self._rows.cache
        cache.keep(row, 0)
        if job.prefix is not None:
            prefix, tokens = job.prefix
            cache.copy_row(row, 0, prefix, stop=tokens)
        return job

    def _make_room(self, job: Job) -> bool:
        """Reserve what the running answers and this request may need, if that fits."""
        cache, jobs = self._rows.cache, [job, *self._jobs.values()]
        rows = len(self._rows.answers) + job.rows
        tokens, images = max(one.tokens for one in jobs), max(one.images for one in jobs)
        if rows > self._max_rows or rows * self._row_bytes(tokens, images) > self._max_bytes:
            return False
        if rows <= cache.batch and tokens <= cache.capacity:
            return True
        # More than is needed, so that not every request moves all others; where that does not fit, as many rows as do.
        batch = max(cache.batch, min(2 * rows, self._max_rows))
        capacity = min(max(cache.capacity, tokens + GROWTH), self._engine.sizes.max_positions)
        if batch * self._row_bytes(capacity, images) > self._max_bytes:
            batch, capacity = min(self._max_rows, self._max_bytes // self._row_bytes(tokens, images)), tokens
        try:
            for row in range(len(self._rows.answers), cache.batch):  # whoever had them is gone
                cache.keep(row, 0)
            cache.reshape(batch, capacity)
        except Exception as error:  # no memory; the cache is as it was
            job.handle._end(None, error)
            return False
        return True

    def _row_bytes(self, tokens: int, images: int) -> int:
        return tokens * self._engine.cache_bytes_per_token + images * self._engine.cache_bytes_per_image

    def _read_piece(self, job: Job, most: int) -> int:
        """How many tokens were read."""
        rows, row, prompts = self._rows, len(self._rows.answers), job.prompts
        assert prompts is not None
        part = prompts.next(rows.cache, row, most)
        if job.options.echo and job.options.logprobs:
            for answer in job.answers:
                answer.note_prompt(part.start, part.logits[0])
        if prompts.read == prompts.tokens:
            self._reading = None
            if job.key and self._model.prefix_cache is not None:
                self._model.prefix_cache.put(job.key, rows.cache, row, len(job.key))
            for other in range(1, job.rows):
                rows.cache.take(row + other, row)
            rows.accept(np.repeat(part.logits[:, -1], job.rows, axis=0), job.answers)
            rows.answers += job.answers
            self._jobs |= dict.fromkeys(job.answers, job)
            job.handle._enter("running")
            for index, answer in enumerate(job.answers):
                if echoed := answer.echoed():
                    job.handle._put(index, echoed)
            job.first_token = time.perf_counter()
        return prompts.read - part.start

    def _step(self) -> None:
        """One token for all running answers."""
        self._settle()
        if self._rows.answers:
            start = time.perf_counter()
            try:
                self._rows.step()
            except Exception as error:  # the decoder failed: no row of it is sure any more
                for answer in self._rows.answers:
                    answer.fail(error)
            self._step_seconds = time.perf_counter() - start
            self._settle()

    def _settle(self) -> None:
        """Hand over what is new, and let go of what ended."""
        rows, before = self._rows, len(self._rows.answers)
        for answer in rows.answers:
            if piece := answer.take():
                job = self._jobs[answer]
                job.handle._put(job.answers.index(answer), piece)
        left = rows.leave()
        if left and self._reading is not None:
            rows.cache.take(len(rows.answers), before)
        for answer in left:
            job = self._jobs.pop(answer)
            if all(own.finish_reason for own in job.answers) and not any(own in self._jobs for own in job.answers):
                _end(job, next((own.error for own in job.answers if own.error), None))

    def _fail_all(self, error: Exception) -> None:
        with self._changed:
            jobs = {*self._jobs.values(), *([self._reading] if self._reading else [])}
            self._jobs, self._reading = {}, None
            if self._cancelling:
                jobs |= {*self._waiting, *self._prepared}
                self._waiting.clear()
                self._prepared.clear()
            self._rows = Rows(self._engine, self._engine.new_cache(1, 1))
        for job in jobs:
            _end(job, error)


def _forget_locals(error: BaseException) -> None:
    """Let go of what an error's frames hold: a picture, and the job, which has the error. Python comes upon such rings late."""
    found = {id(error): error}  # they may lead in a circle
    left = [error]
    while left:
        one = left.pop()
        clear_frames(one.__traceback__)
        for other in (one.__cause__, one.__context__):
            if other is not None and id(other) not in found:
                found[id(other)] = other
                left.append(other)


def _end(job: Job, error: Exception | None) -> None:
    """Give the handle its outcome, unless it was cancelled."""
    if error is None and not job.is_over:
        job.timings.decode = time.perf_counter() - job.first_token
        results = [answer.result() for answer in job.answers]
        job.handle._end(results if job.rows > 1 else results[0], None)
    elif error is not None:
        job.handle._end(None, error)
    job.prompts, job.answers = None, []
