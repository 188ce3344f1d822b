"""POST /v1/chat/completions."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from .. import checks as values
from ..generation.answer import Generation
from .answering import answer
from .asked import Asked, model_name, streaming
from .body import Body
from .conversation import read_conversation
from .fields import Fields
from .logprobs import Likelihood, for_chat
from .problem import Problem
from .reply import Reply
from .sampling import MOST_TOP_LOGPROBS, generation_options
from .served import Served


async def chat_completions(request: Request) -> Response:
    return await answer(request, _read, _ChatReply)


def _read(served: Served, body: Body) -> Asked:
    fields, settings = Fields(body.value), served.settings
    served.check_name(fields.checked("model", model_name))
    messages = fields.take("messages")
    if body.is_form and messages is None:
        messages = [{"role": "user", "content": fields.take("prompt") or ""}]
    detail = fields.checked("detail", values.choice("auto", "low", "high")) if body.uploads else None
    as_given = fields.checked("image_order", values.choice("first", "as_given")) == "as_given"
    conversation = read_conversation(messages, body.uploads, detail, not as_given, settings.max_messages, settings.max_images)
    if conversation.split and not served.model.processor.image_processor.can_split:
        raise Problem(400, "detail is high, and this model sees images whole. Leave it out.", "unsupported", "messages")
    options = generation_options(fields, settings.rows) | _likelihoods(fields)
    stream, usage = streaming(fields)
    fields.end()
    return Asked([conversation], options, stream, usage)


def _likelihoods(fields: Fields) -> dict[str, Any]:
    asked = fields.checked("logprobs", values.flag)
    top = fields.checked("top_logprobs", values.whole(0, MOST_TOP_LOGPROBS))
    if top is not None and not asked:
        raise Problem(400, f"top_logprobs is {top}, and logprobs is not true. Send both.", "invalid_value", "top_logprobs")
    return {"logprobs": True, "top_logprobs": top or 0} if asked else {}


class _ChatReply(Reply):
    kind, chunk_kind, prefix, prompt = "chat.completion", "chat.completion.chunk", "chatcmpl", "messages"

    def whole_choice(self, answer: Generation, found: list[Likelihood] | None) -> dict[str, Any]:
        return {
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": None if found is None else for_chat(found),
        }

    def first_piece(self) -> dict[str, Any]:
        return {"delta": {"role": "assistant", "content": ""}, "logprobs": None}

    def piece(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text}, "logprobs": None}

    def last_piece(self, found: list[Likelihood] | None) -> dict[str, Any]:
        return {"delta": {}, "logprobs": None if found is None else for_chat(found)}
