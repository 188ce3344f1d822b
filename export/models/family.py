"""What the exporter asks of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from ...graphs.contract import GRAPHS_OF, Architecture, GraphName, ModelSizes
from ...graphs.operators import Operators


@dataclass(frozen=True)
class Rows:
    """Matrices one below another, and below them rows of zeros."""

    parts: tuple[str, ...]
    """Their parameters."""
    count: int
    """All rows, the zeros included."""


@dataclass(frozen=True)
class Block:
    """Some rows or some columns of a matrix."""

    parameter: str
    rows: range
    columns: range


Shapes = dict[str, tuple[int, ...]]
"""The shape of each of a model's parameters."""


class Graphs(Protocol):
    """Makes the modules to trace of a reference model without data, each by its graph's name.

    Parameters that the graphs have in the place of the reference's become parts of `model`, under names of their own; tables that
    are computed are parameters of a graph's module itself, under their names. `joins`: queries, keys and values in one product.
    """

    def __call__(
        self, model: Any, sizes: ModelSizes, operators: Operators, dtype: torch.dtype, joins: bool
    ) -> dict[GraphName, nn.Module]: ...


@dataclass(frozen=True)
class Family:
    """One model's answers. A config is transformers' own; parameters have the reference's names."""

    name: Architecture
    title: str
    """What people call it."""
    reference: Any
    """transformers' class, which makes a model of a config."""
    load: Callable[[dict[str, Any], Path, str, int], Any]
    """(config.json's content, its folder, what the user called the checkpoint, the number of its tensors) → the config.

    Raises CheckpointError for what no graph can express."""
    sizes: Callable[[Any, int], ModelSizes]
    """(config, number of parameters) → sizes."""
    fit_vocabulary: Callable[[Any, int, str], None]
    """(config, rows of the table, the checkpoint): give the config the table that an adapter leaves its model with."""
    tables: tuple[str, str]
    """The parameters with a row per token: the embeddings, the head."""
    tables_of: Callable[[Any, ModelSizes], dict[str, Tensor]]
    """(config, sizes) → what is computed here and read by the graphs, by name."""
    graphs: Graphs
    example: Callable[[GraphName, ModelSizes, torch.dtype], tuple[tuple[Any, ...], tuple[Any, ...]]]
    """(graph, sizes, type) → inputs to trace its module with, and which of their axes vary."""
    made_of: Callable[[Shapes, ModelSizes], dict[str, Rows | Block]]
    """(shapes, sizes) → the graphs' own parameters, and what of the checkpoint's each is."""
    parameters: Callable[[GraphName, list[str], bool], Iterator[str]]
    """(graph, the names of all parameters, joined) → those that the graph must have, tables included."""

    check_processor: Callable[[Path, str, Any], None]
    """(the checkpoint's folder, what the user called it, config) → CheckpointError where the reference's processor cannot be
    made of it, or not for this model."""
    tokens: tuple[str, ...]
    """What a tokenizer gets where it lacks them and the model has rows for them."""
    adapted: Callable[[dict[str, Any], Any], dict[str, Any]]
    """(config.json's content, config) → the content with what an adapter has changed."""
    complete: Callable[[Path, Tokenizer, Any], None]
    """(folder, tokenizer, config): write there what hosts need and a checkpoint of this model lacks."""

    @property
    def graph_names(self) -> tuple[GraphName, ...]:
        return GRAPHS_OF[self.name]
