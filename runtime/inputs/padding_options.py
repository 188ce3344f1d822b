"""How prompts are cut and padded when they become arrays."""

from __future__ import annotations

from dataclasses import dataclass

from ..checks import is_plain, whole
from ..errors import PromptError
from ..text.tokenizer import Padding, Side, Truncation, truncation_length


@dataclass(frozen=True)
class PaddingOptions:
    """How prompts are cut and padded, by the reference's options."""

    padding: Padding = False
    padding_side: Side | None = None
    pad_to_multiple_of: int | None = None
    truncation: Truncation = None
    max_length: int | None = None

    def __post_init__(self) -> None:
        for name in ("padding", "padding_side", "truncation", "max_length"):
            if not is_plain(value := getattr(self, name)):
                raise PromptError(f"{name} is {value!r:.60}. Give one of the reference's values, or leave it out.")
        if self.pad_to_multiple_of is not None:
            whole(1)("pad_to_multiple_of", self.pad_to_multiple_of)

    @property
    def limit(self) -> int | None:
        """Tokens that a prompt may keep; None for all."""
        return truncation_length(self.truncation, self.max_length, self.padding)
