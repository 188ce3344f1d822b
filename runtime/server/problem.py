"""Everything that a server refuses or fails at, in OpenAI's form."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, fields
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.responses import Response

from ..errors import Cancelled, ImageError, Overloaded, PromptError, PromptTooLongError
from ..sampling.generation_options import GenerationOptions
from .json_text import json_response

log = logging.getLogger("idefics2_onnx.server")
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_THEIR_NAMES = {
    "max_new_tokens": "max_tokens",
    "stop_strings": "stop",
    "num_return_sequences": "n",
    "json_schema": "response_format",
}
"""Options whose names a client knows otherwise."""
_OPTIONS = {_THEIR_NAMES.get(field.name, field.name) for field in fields(GenerationOptions)}


@dataclass
class Problem(Exception):  # noqa: N818 - as RFC 9457 calls it
    """An answer that is an error. The message states the fact, with its numbers, and then what to do."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    """Which part of the request is to blame."""
    retry_after: int | None = None
    """Seconds."""

    def __str__(self) -> str:
        return self.message

    @property
    def body(self) -> dict[str, dict[str, str | None]]:
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        headers = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return json_response(self.body, self.status, headers)


def problem_of(error: Exception, request_id: str, retry_after: int = 1, prompt: str | None = None) -> Problem:
    """What a client is told of an exception. The log alone has what is our own fault, under the request's id.

    `prompt` is the field that prompt and pictures stand in.
    """
    if isinstance(error, Problem):
        return error
    if isinstance(error, PromptTooLongError):
        return Problem(400, their_words(str(error)), "context_length_exceeded", prompt)
    if isinstance(error, ImageError):
        return Problem(400, str(error), "invalid_image", prompt)
    if isinstance(error, PromptError):
        message = their_words(str(error))
        named = re.match(r"(?:The )?(\w+) (?:is|has|cannot|takes) ", message)
        return Problem(400, message, "invalid_value", named[1] if named and named[1] in _OPTIONS else None)
    if isinstance(error, Overloaded):
        return Problem(429, str(error), "queue_full", retry_after=retry_after)
    if isinstance(error, Cancelled):
        return Problem(503, "The server is shutting down. Try again soon.", "shutting_down", retry_after=retry_after)
    if isinstance(error, TimeoutError):
        return Problem(504, "The answer took longer than this server lets it. Ask for fewer tokens, or try again.", "timeout")
    if isinstance(error, HTTPException):  # of the router
        phrase = HTTPStatus(error.status_code).phrase
        return Problem(error.status_code, f"{phrase}. See /openapi.json for what there is.", phrase.lower().replace(" ", "_"))
    log.error("id=%s failed", request_id, exc_info=error)
    return Problem(500, f"The server failed. Its log says more of {request_id}.", "internal_error")


def their_words(message: str) -> str:
    """An error of ours under the names that a client used."""
    return re.sub("|".join(rf"\b{name}\b" for name in _THEIR_NAMES), lambda found: _THEIR_NAMES[found[0]], message)
