"""What a request asks for, by our names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .. import checks as values
from ..errors import PromptError
from .conversation import Conversation, Picture
from .fields import Fields
from .problem import Problem


@dataclass(frozen=True)
class Asked:
    """One or several prompts, and how to answer all of them."""

    prompts: list[Conversation | str]
    """A conversation, or texts that are taken literally."""
    options: dict[str, Any]
    """Of `generate`."""
    stream: bool
    include_usage: bool

    @property
    def pictures(self) -> list[Picture]:
        return [picture for prompt in self.prompts if isinstance(prompt, Conversation) for picture in prompt.pictures]

    @property
    def texts(self) -> list[list[str]]:
        """Those of each prompt."""
        return [[prompt] if isinstance(prompt, str) else prompt.texts for prompt in self.prompts]

    @property
    def each(self) -> int:
        """Answers to each prompt."""
        return int(self.options.get("num_return_sequences", 1))


def streaming(fields: Fields) -> tuple[bool, bool]:
    """Whether to stream, and to say at the end what it took."""
    stream = bool(fields.checked("stream", values.flag))
    if (given := fields.take("stream_options")) is None:
        return stream, False
    options = Fields(given, "stream_options")
    usage = bool(options.checked("include_usage", values.flag))
    options.pass_over({"include_obfuscation": None})
    options.end()
    if not stream:
        raise Problem(
            400, "stream_options go with stream. Send stream: true, or leave them out.", "invalid_value", "stream_options"
        )
    return stream, usage


def model_name(name: str, value: Any) -> str:
    """A check."""
    if not isinstance(value, str):
        raise PromptError(f"{name} is no text. Send the name that /v1/models lists.")
    return value
