"""What became of a question → a row of answers."""

from __future__ import annotations

import json
from typing import Any

from ..generation.mapping import Outcome
from .question import Question

COLUMNS = (
    "id", "images", "prompt", "answer", "prompt_tokens", "new_tokens", "finish_reason", "seconds_waiting", "seconds_images",
    "seconds_prompt", "seconds_answer", "error",
)  # fmt: skip
"""What every row has; of answer and error, one is None."""
_SECONDS = [name for name in COLUMNS if name.startswith("seconds_")]
_PREFIX = "answer_"


def row_of(outcome: Outcome[Question], fields: dict[str, Any]) -> dict[str, Any]:
    """All columns, and fields of the answer behind them."""
    question, answer = outcome.item, outcome.answer
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {"id": question.id, "images": question.names, "prompt": question.prompt}
    if answer is None:
        return row | {"error": str(outcome.error)}
    timings = answer.timings
    seconds = (timings.waiting, timings.images, timings.prefill, timings.decode)
    return row | {
        "answer": answer.text,
        "prompt_tokens": answer.prompt_tokens,
        "new_tokens": timings.new_tokens,
        "finish_reason": answer.finish_reason,
        **{name: round(value, 4) for name, value in zip(_SECONDS, seconds, strict=True)},
        **fields,
    }


def fields_of(answer: str, options: dict[str, Any]) -> dict[str, Any]:
    """Where a JSON schema gave answers their form, the top-level fields, as columns; a name that is taken gets a prefix."""
    if options.get("json_schema") is None:
        return {}
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):  # cut off by max_new_tokens
        return {}
    if not isinstance(found, dict):
        return {}
    return {f"{_PREFIX}{name}" if name in COLUMNS or name.startswith(_PREFIX) else name: found[name] for name in found}


def json_line(row: dict[str, Any]) -> bytes:
    """UTF-8; with other letters escaped where a file's name holds bytes that are none."""
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(row).encode() + b"\n"
