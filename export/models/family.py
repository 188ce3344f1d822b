"""What the exporter asks of a model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
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


@dataclass(frozen=True)
class LoudChannels:
    """Channels between parameters, which factors divide, and matrices, whose columns they multiply."""

    graph: GraphName
    before: list[str]
    """Names of parameters, divided along their first axis."""
    after: list[str]
    """Names of matrices that read what comes out."""
    cached: bool = False
    """Whether what lies between goes into the key/value cache, which two decoders may share."""
    repeat: tuple[int, int, int] | None = None
    """(key/value heads, query heads each, head_dim) where a matrix reads each channel of `before` several times."""


@dataclass(frozen=True)
class Worth:
    """How finely a quantised folder stores a matrix."""

    always: bool = False
    """In 8 bits in any folder."""
    costly: bool = False
    """In 8 bits in an int4 folder, but for the smallest."""
    delicate: bool = False
    """One scale for all of a row makes it worst: an int8 folder has finer ones."""
    fine: bool = False
    """In small groups in an int4 folder, but for the smallest."""


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

    # Opening a checkpoint
    load: Callable[[dict[str, Any], Path, str, int], Any]
    """(config.json's content, its folder, what the user called the checkpoint, the number of its tensors) → the config.

    Raises CheckpointError for what no graph can express."""
    sizes: Callable[[Any, int], ModelSizes]
    """(config, number of parameters) → sizes."""
    fit_vocabulary: Callable[[Any, int, str], None]
    """(config, rows of the table, the checkpoint): give the config the table that an adapter leaves its model with."""
    tables: tuple[str, str]
    """The parameters with a row per token: the embeddings, the head."""

    # Tracing
    tables_of: Callable[[Any, ModelSizes], dict[str, Tensor]]
    """(config, sizes) → what is computed here and read by the graphs, by name."""
    graphs: Graphs
    example: Callable[[GraphName, ModelSizes, torch.dtype], tuple[tuple[Any, ...], tuple[Any, ...]]]
    """(graph, sizes, type) → inputs to trace its module with, and which of their axes vary."""
    made_of: Callable[[Shapes, ModelSizes], dict[str, Rows | Block]]
    """(shapes, sizes) → the graphs' own parameters, and what of the checkpoint's each is."""
    parameters: Callable[[GraphName, list[str], bool], Iterator[str]]
    """(graph, the names of all parameters, joined) → those that the graph must have, tables included."""
    parameter_of: Callable[[str], str]
    """(a graph's weight, without its marks) → the parameter's name."""

    # Running the reference
    norms: tuple[type[nn.Module], ...]
    """The reference's classes of RMS norms, which step to float32 inside."""
    prepare: Callable[[Any, Any, Collection[str], torch.dtype], None]
    """(model on the meta device, config, parameters that are packed, type of the embeddings): make it ready to read its weights
    as it runs."""
    rotations: Callable[[Any], Iterator[tuple[str, nn.Module]]]
    """(model) → modules that give rotary tables, each with the name of what reads them."""
    image_features: Callable[[Any, Tensor], Tensor]
    """(model, pictures [pictures, 3, height, width]) → [pictures, image_seq_len, vision width]."""
    hidden_states: Callable[[Any, Tensor, Tensor, Tensor], Tensor]
    """(model, ids [seq], features of pictures, places) → last states [seq, hidden]."""
    places: Callable[[Tensor, list[int], ModelSizes], Tensor]
    """(ids [seq], the numbers of the pictures shown in it, sizes) → for each token what of them it is or sees, or −1."""

    # Quantising
    worth: Callable[[str, ModelSizes], Worth]
    """(a matrix by its name in a graph, sizes) → how finely it is stored."""
    channels: Callable[[Any], Iterator[LoudChannels]]
    """(config) → where loud channels can be evened out."""

    # The files beside the weights
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
