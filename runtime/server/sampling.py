"""How to generate, by OpenAI's names → by ours."""

from __future__ import annotations

from typing import Any

from .. import checks as values
from ..errors import PromptError
from ..sampling.generation_options import GenerationOptions
from .fields import Fields, text
from .problem import Problem

MOST_STOPS, LONGEST_STOP = 16, 256
"""Texts, and characters of one: all of them are looked for with each token. OpenAI takes 4."""
MOST_BIASES = 1024
MOST_TOP_LOGPROBS = 20
"""OpenAI's."""
_NEUTRAL: dict[str, tuple[Any, ...] | None] = {
    "user": None,
    "store": None,
    "metadata": None,
    "service_tier": None,
    "safety_identifier": None,
    "prompt_cache_key": None,
    "prompt_cache_retention": None,
    "parallel_tool_calls": None,
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "suffix": ("",),
    "echo": (False,),
    "best_of": (1,),
}
"""What clients send that changes no answer, at these values."""


def generation_options(fields: Fields, most_answers: int) -> dict[str, Any]:
    """Options of `generate`; Problem 400 for what is wrong, or what would change answers and is not offered."""
    options = {
        "max_new_tokens": _max_tokens(fields),
        "num_return_sequences": fields.checked("n", values.whole(1, most_answers)) or 1,
        "stop_strings": fields.checked("stop", _stop) or None,
        "seed": fields.checked("seed", values.whole(0)),
        "logit_bias": fields.checked("logit_bias", _logit_bias) or None,
    }
    for name in ("frequency_penalty", "presence_penalty", "repetition_penalty"):
        options[name] = fields.checked(name, _as(name))
    options |= _sampled(fields, options["num_return_sequences"] > 1) | _structure(fields)
    fields.pass_over(_NEUTRAL)
    return {name: value for name, value in options.items() if value is not None}


def _max_tokens(fields: Fields) -> int | None:
    new: int | None = fields.checked("max_completion_tokens", values.whole(1))
    old: int | None = fields.checked("max_tokens", values.whole(1))
    if new is not None and old is not None and new != old:
        raise Problem(
            400,
            f"max_tokens is {old} and max_completion_tokens {new}. Give one of them.",
            "invalid_value",
            "max_completion_tokens",
        )
    return old if new is None else new


def _sampled(fields: Fields, several: bool) -> dict[str, Any]:
    """Whether tokens are drawn: with a temperature above 0, or without one where another option makes no sense otherwise."""
    temperature = fields.checked("temperature", values.number(0, 1e5))
    top_p, top_k = fields.checked("top_p", _as("top_p")), fields.checked("top_k", _as("top_k"))
    if temperature is None and not (several or (top_p is not None and top_p < 1) or top_k is not None):
        return {}
    if temperature == 0:
        if several:
            raise Problem(
                400,
                "n is above 1 with a temperature of 0, so all answers would be equal. Raise the temperature.",
                "invalid_value",
                "n",
            )
        return {"do_sample": False}
    return {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": top_k}


def _structure(fields: Fields) -> dict[str, Any]:
    """What an answer has to look like."""
    found = {"json_schema": _schema(fields)}
    for name in ("regex", "grammar"):
        found[name] = fields.checked(name, text)
    given = {name: value for name, value in found.items() if value is not None}
    if len(given) > 1:
        raise Problem(
            400, "More than one of response_format, regex and grammar was given. Give one.", "invalid_value", list(given)[1]
        )
    for name, value in given.items():
        _as(name)(name, value)
    return given


def _schema(fields: Fields) -> dict[str, Any] | None:
    if (given := fields.take("response_format")) is None:
        return None
    form = Fields(given, "response_format")
    kind = form.required("type", values.choice("text", "json_object", "json_schema"))
    schema: dict[str, Any] | None = None
    if kind == "json_object":
        schema = {"type": "object"}
    elif kind == "json_schema":
        wrapped = Fields(form.required("json_schema", _any), "response_format.json_schema")
        schema = wrapped.required("schema", _object)
        wrapped.pass_over({"name": None, "description": None, "strict": None})
        wrapped.end()
    form.end()
    return schema


def _as(option: str) -> values.Check:
    """The check of one of our own options."""

    def check(_: str, value: Any) -> Any:
        return GenerationOptions.checked({option: value})[option]

    return check


def _stop(name: str, value: Any) -> tuple[str, ...]:
    stops = values.strings(name, value)
    if len(stops) > MOST_STOPS or any(len(one) > LONGEST_STOP for one in stops):
        longest = max(map(len, stops))
        raise PromptError(
            f"{name} has {len(stops)} texts of up to {longest:,} characters, more than {MOST_STOPS} of {LONGEST_STOP}. Cut it."
        )
    return stops


def _logit_bias(name: str, value: Any) -> dict[int, float]:
    biases = dict(values.token_biases(name, value))
    if len(biases) > MOST_BIASES:
        raise PromptError(f"{name} has {len(biases):,} tokens, more than {MOST_BIASES:,}. Give fewer.")
    return biases


def _object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PromptError(f"{name} is no object. Give a JSON schema.")
    return value


def _any(_: str, value: Any) -> Any:
    return value
