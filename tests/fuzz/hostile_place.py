"""Where a hostile case runs: a folder of its own, beside things that it must leave alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

EXAMPLES = Path(__file__).parents[2] / "examples"
Attempt: TypeAlias = Callable[[], object]
"""What may return anything, or raise an Idefics2OnnxError."""


@dataclass(frozen=True)
class Place:
    """The folder of one case, and what all cases share."""

    folder: Path
    """Empty at first; a case names and writes nothing else."""
    canary: Path
    """A folder that nothing may write to, and that links and addresses lead to."""
    checkpoint: Path
    """A small honest checkpoint."""
    adapter: Path
    """An honest adapter of it."""
    idefics: Path
    """The same as the checkpoint, of the first model."""
    values: list[Any]
    """JSON of hypothesis."""
    messages: list[Any]
    """Conversations of hypothesis."""
