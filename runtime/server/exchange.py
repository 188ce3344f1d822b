"""One request for answers: what it holds, what it comes to, and what it counts as."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ..errors import PromptError
from ..generation.answer import Generation
from ..generation.handle import Handle
from .answers import Answers
from .asked import Asked
from .conversation import Conversation
from .logprobs import Likelihood, likelihoods
from .pictures import picture_bytes
from .problem import Problem, log, problem_of
from .reply import Reply, timings, usage
from .request_log import note, request_id
from .served import Served


class Exchange:
    """From its first byte to its last, when it lets go of all.

    Attributes:
        started, deadline: when it began, by `time.perf_counter`, and when it has to be over, by the event loop's clock.
        asked, reply: what it asks for, without its prompts, and how that is written; known later.
    """

    asked: Asked
    reply: Reply

    def __init__(self, request: Request, served: Served, prompt: str) -> None:
        """`prompt` is the field that prompt and pictures stand in, for errors."""
        self._request, self.served, self._prompt = request, served, prompt
        self.started = time.perf_counter()
        self.deadline = asyncio.get_running_loop().time() + served.settings.timeout
        self.hold, self.answers = served.budget.hold(), Answers(1)
        self._ended = False
        served.under_way += 1

    async def work(self, asked: Asked) -> dict[str, Any] | None:
        """The whole response; None where a stream may begin."""
        await self._submit(asked)
        self.asked = replace(asked, prompts=[])
        del asked  # its pictures' addresses may be as long as they
        if self.asked.stream:
            await self.answers.prepared(self.served.settings.keep_alive)
            return None
        found = await self.answers.results()
        choices = [self.reply.whole_choice(one, likely) for one, likely in zip(found, await self.likelihoods(found), strict=True)]
        self.note_answers(found)
        return self.reply.whole(choices, found, **self.totals(found))

    async def _submit(self, asked: Asked) -> None:
        served, settings = self.served, self.served.settings
        for texts in asked.texts:
            served.check_length(texts)
        images = await picture_bytes(asked.pictures, served.urls, settings.max_pixels, self.hold)
        self.answers = Answers(asked.each)
        if settings.log_texts:
            log.info("id=%s asks %s", request_id(self._request), asked.texts)
        try:
            for prompt in asked.prompts:
                self.answers.handles.append(self._handle(prompt, images, asked.options))
        except PromptError:
            served.check_open()  # it may have been closed meanwhile
            raise

    def _handle(self, prompt: Conversation | str, images: Sequence[bytes], options: dict[str, Any]) -> Handle:
        if isinstance(prompt, str):
            return self.served.scheduler.submit(prompt, raw=True, **options)
        return self.served.scheduler.submit(prompt.with_images(images), do_image_splitting=prompt.split, **options)

    async def likelihoods(self, found: Sequence[Generation]) -> list[list[Likelihood] | None]:
        """Of each answer's tokens, where they were asked for; in a thread, since it decodes each token."""
        model = self.served.model
        if not self.asked.options.get("logprobs"):
            return [None] * len(found)
        return await run_in_threadpool(
            lambda: [list(likelihoods(one, model.processor.tokenizer, model.options.eos_token_id)) for one in found]
        )

    def totals(self, found: Sequence[Generation]) -> dict[str, Any]:
        """What the answers took, in tokens and seconds."""
        return {"usage": usage(found, self.answers.each), "timings": timings(found, self.answers.handles, self.started)}

    def note_answers(self, found: Sequence[Generation]) -> None:
        """Count a request that came to its end."""
        seconds = time.perf_counter() - self.started
        self.served.note_seconds(seconds)
        self.served.failures = 0
        self.served.metrics.answered(seconds, self.started, self.answers.handles, found)
        tokens = usage(found, self.answers.each)
        note(self._request, f"{tokens['prompt_tokens']} + {tokens['completion_tokens']} tokens")
        if self.served.settings.log_texts:
            log.info("id=%s answered %s", request_id(self._request), [one.text for one in found])

    def problem(self, error: Exception) -> Problem:
        """What to tell of an error, and count."""
        found = problem_of(error, request_id(self._request), self.served.retry_after, self._prompt)
        self.served.metrics.refused(found)
        if found.status >= 500:
            self.served.failures += found.status == 500
            self.served.metrics.ended.labels("error").inc()
        return found

    def failed(self, error: Exception) -> Response:
        """The response in place of an answer; a client that left is passed on."""
        if isinstance(error, ClientDisconnect):
            self.left()
            raise error
        return self.problem(error).response()

    def left(self) -> None:
        """Note that the client left."""
        self.served.metrics.ended.labels("abort").inc()

    def end(self) -> None:
        """Let go of all; whatever still runs is cancelled."""
        if not self._ended:
            self._ended = True
            self.answers.cancel()
            self.hold.release()
            self.served.under_way -= 1
