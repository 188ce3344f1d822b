"""A part of a folder's graph, run alone: the layers of a model that does not fit in memory, a few matrices at a time."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...graphs.contract import GraphName, ModelSizes, key_value_names
from .graphs import load_graph, opened, reader

_MOVES = {"Cast", "Concat", "Expand", "Gather", "Identity", "Reshape", "Shape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators that round nothing, but for Cast, whose rounding is that of the value it makes."""


@dataclass(frozen=True)
class Cut:
    """A graph of a folder whose parts can be run alone."""

    graph: GraphName
    model: ir.Model

    @classmethod
    def open(cls, folder: Path, graph: GraphName) -> Cut:
        return cls(graph, load_graph(folder, graph))

    def input_of(self, weight: str) -> str:
        """Name of the value that the normalisation or product with this weight reads."""
        initializers = self.model.graph.initializers
        names = (weight, f"{weight}.T", f"{weight.removesuffix('.weight')}.quantised")
        node = reader(next(initializers[name] for name in names if name in initializers))
        value = node.inputs[0]
        if node.op_type == "MatMulIntegerToFloat":  # integers ← QuantizeLinear ← activations × levels ÷ largest
            for _ in range(2):
                made = value.producer() if value is not None else None
                value = made.inputs[0] if made is not None else None
        assert value is not None
        assert value.name is not None
        return value.name

    def has(self, weight: str) -> bool:
        return weight in self.model.graph.initializers

    def read_by(self, value: str) -> str:
        """Name of the first value that goes into the node that makes this one."""
        node = next(node for node in self.model.graph for made in node.outputs if made.name == value)
        first = node.inputs[0]
        assert first is not None
        assert first.name is not None
        return first.name

    def borders(self, norm: str) -> list[str]:
        """Names of the values that enter each layer, in order; `norm` names a layer's first norm by its number."""
        initializers = self.model.graph.initializers
        norms = itertools.takewhile(initializers.__contains__, (norm.format(i) for i in itertools.count()))
        return [self.input_of(name) for name in norms]

    def part(self, inputs: list[str], outputs: list[str]) -> ir.Model:
        """What lies between values of the graph."""
        types = {value.name: value.dtype for node in self.model.graph for value in node.outputs}
        part = ir.Model(ir.convenience.extract(self.model.graph, inputs, outputs), ir_version=self.model.ir_version)
        for value in (*part.graph.inputs, *part.graph.outputs):
            dtype = types.get(value.name)
            if value.dtype is None and dtype is not None:
                value.dtype = dtype
        return part

    def run(self, inputs: dict[str, Tensor], outputs: list[str]) -> list[NDArray[np.float32]]:
        """Run the part between inputs and outputs; float32 results."""
        return opened(self.part(list(inputs), outputs)).run(**inputs)

    def run_through(self, borders: list[str], x: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """From the first of values of the graph, which is `x`, to the last, one part after another that gets `inputs`, too."""
        for border, following in itertools.pairwise(borders):
            x = torch.from_numpy(self.run(inputs | {border: x}, [following])[0])
        return x


def roundings(part: ir.Model) -> tuple[float, float]:
    """The most roundings in a row that what comes out may carry: one for each operation, and with those inside of sums.

    A sum of n products rounds n times; its errors add up like a random walk, to √n ÷ 2 of a type's epsilon.
    """
    depths: dict[ir.Value | None, tuple[float, float]] = {}
    for node in part.graph:
        before = [depths.get(value, (0.0, 0.0)) for value in node.inputs] or [(0.0, 0.0)]
        rounds = node.op_type not in _MOVES
        inside = max(float(rounds), _terms(node) ** 0.5 / 2)
        depth = max(d for d, _ in before) + rounds, max(d for _, d in before) + inside
        depths |= dict.fromkeys(node.outputs, depth)
    found = [depths.get(value, (0.0, 0.0)) for value in part.graph.outputs]
    return max(1.0, *(d for d, _ in found)), max(1.0, *(d for _, d in found))


def _terms(node: ir.Node) -> int:
    """How many products each number that comes out of a node with a matrix of weights sums; 0 of others."""
    if node.op_type == "MatMulNBits":
        return node.attributes["K"].as_int()
    matrix = node.inputs[1] if len(node.inputs) > 1 else None
    widening = matrix.producer() if matrix is not None else None
    if widening is not None and widening.op_type == "Cast":
        matrix = widening.inputs[0]
    if matrix is None or matrix.shape is None or node.op_type not in ("MatMul", "MatMulIntegerToFloat", "Conv"):
        return 0
    shape = [size for size in matrix.shape if isinstance(size, int)]
    return math.prod(shape[1:]) if node.op_type == "Conv" else shape[0]


def whole_prompt(sizes: ModelSizes, embeds: Tensor) -> dict[str, Tensor]:
    """The decoder's inputs for a prompt [1, seq, hidden] with no past, and with logits wanted everywhere.

    Every part gets all of them: the graph reads batch and cache sizes off the first that has them.
    """
    count = embeds.shape[1]
    empty = torch.zeros(1, sizes.num_key_value_heads, count, sizes.head_dim)
    call = {"inputs_embeds": embeds, "attention_mask": torch.ones(1, count, dtype=torch.int64)}
    call["logit_positions"] = torch.arange(count)[None]
    return call | dict.fromkeys(key_value_names(sizes.num_layers, "past_key_values"), empty)
