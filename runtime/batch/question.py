"""What becomes a row of answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..errors import PromptError


@dataclass(frozen=True)
class Question:
    """A prompt with its pictures, or what is wrong with the place where they should stand."""

    id: str
    """Names it for good: a picture's path, or a table's path and line, as in table.jsonl:7."""
    prompt: str = ""
    images: list[Any] = field(default_factory=list)
    """Paths, data: URLs or files' bytes."""
    names: list[str | None] = field(default_factory=list)
    """The pictures' paths; None for those that have none."""
    error: str = ""

    def request(self) -> tuple[str, list[Any]]:
        """Prompt and images; raises what is wrong."""
        if self.error:
            raise PromptError(self.error)
        return self.prompt, self.images
