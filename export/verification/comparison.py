"""What verification asks of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...graphs.contract import GraphName, Manifest
from .difference import Difference
from .example import Example
from .prompts import ReadPrompts
from .reference import Reference


@dataclass(frozen=True)
class Attention:
    """One of the reference's attentions, by what a graph's node says of it."""

    heads: int
    key_value_heads: int
    scale: float
    cached: bool = False
    """Whether it is causal, over a cache, with positions."""


@dataclass(frozen=True)
class Comparison:
    """One model's answers."""

    pieces_of_inputs: Callable[[Path, Manifest, Reference, Example], Iterator[Difference]]
    """Every piece of every graph but the decoders."""
    pieces_of_decoder: Callable[[Path, GraphName, Manifest, Reference, Example], Iterator[Difference]]
    read_prompts: ReadPrompts
    modules: Callable[[Any, GraphName], tuple[dict[str, nn.Module], list[Attention]]]
    """(model, graph) → the reference's modules that stand in a graph, by the graph's names, and its attentions in order."""
    features: Callable[[Path, Manifest, Tensor], Tensor]
    """(folder, manifest, pictures [pictures, 3, side, side]) → [pictures, image_seq_len, width], a layer in memory at a time."""
    logits: Callable[[Path, GraphName, Manifest, Tensor, Tensor, Tensor], Tensor]
    """(folder, decoder, manifest, ids [seq], features, places) → [seq, vocab], a layer in memory at a time."""
