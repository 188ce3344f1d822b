"""POST /v1/completions: raw prompts, which are taken literally."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from .. import checks as values
from ..errors import PromptError
from ..generation.answer import Generation
from .answering import answer
from .asked import Asked, model_name, streaming
from .body import Body
from .fields import Fields
from .logprobs import Likelihood, for_completion
from .problem import Problem
from .reply import Reply
from .sampling import MOST_TOP_LOGPROBS, generation_options
from .served import Served

MOST_PROMPTS = 128


async def completions(request: Request) -> Response:
    return await answer(request, _read, _TextReply)


def _read(served: Served, body: Body) -> Asked:
    fields = Fields(body.value)
    served.check_name(fields.checked("model", model_name))
    if body.uploads:
        raise Problem(400, "Pictures go to /v1/chat/completions. Send them there.", "unsupported", "image")
    prompts = fields.required("prompt", _prompts)
    if len(prompts) > (most := min(MOST_PROMPTS, served.settings.queue)):  # which would find the queue full for ever
        raise Problem(
            400, f"prompt has {len(prompts):,} texts, more than {most:,}. Send fewer at once.", "too_many_prompts", "prompt"
        )
    top = fields.checked("logprobs", values.whole(0, MOST_TOP_LOGPROBS))
    options = generation_options(fields, served.settings.rows)
    if top is not None:
        options |= {"logprobs": True, "top_logprobs": top}
    stream, usage = streaming(fields)
    fields.end()
    return Asked(prompts, options, stream, usage)


def _prompts(name: str, value: Any) -> list[str]:
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not found or not all(isinstance(one, str) for one in found):
        raise PromptError(f"{name} is neither text nor a list of texts. Give one of these; token ids are not offered.")
    return found


class _TextReply(Reply):
    kind = chunk_kind = "text_completion"
    prefix, prompt = "cmpl", "prompt"

    def whole_choice(self, answer: Generation, found: list[Likelihood] | None) -> dict[str, Any]:
        return {"text": answer.text, "logprobs": None if found is None else for_completion(found)}

    def first_piece(self) -> dict[str, Any] | None:
        return None

    def piece(self, text: str) -> dict[str, Any]:
        return {"text": text, "logprobs": None}

    def last_piece(self, found: list[Likelihood] | None) -> dict[str, Any]:
        return {"text": "", "logprobs": None if found is None else for_completion(found)}
