"""Prompts as a decoder reads them, graph and reference alike."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ...graphs.contract import Manifest
from .difference import Difference
from .example import Example
from .reference import Reference


@dataclass(frozen=True)
class Prompts:
    """An example's prompts as embeddings."""

    embeds: list[Tensor]
    """[seq, hidden] of each."""
    answered: Tensor
    """Those of their answers [prompts, steps, hidden]."""
    logits: Callable[[Any, Tensor, int], Tensor]
    """(model, embeddings [copies, seq, hidden] of a prompt and its answer, the prompt's number) → [copies, seq, vocab]."""
    more: Callable[[int], dict[str, Tensor]]
    """(step, 0 for all prompts in a padded batch) → inputs of the graph that only this model's has."""


class ReadPrompts(Protocol):
    """Compares what lies between images and decoder, given the truth about the images' features."""

    def __call__(
        self, folder: Path, manifest: Manifest, reference: Reference, example: Example, images: list[Tensor]
    ) -> Generator[Difference, None, Prompts]: ...
