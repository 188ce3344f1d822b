"""A part of a folder's graph, run alone: the layers of a model that does not fit in memory, one at a time."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..graphs.contract import GraphName, ModelSizes, key_value_names
from .compare import load_graph, run, widen, widen_model

VISION_NORM, LAST_VISION_NORM = "vision_model.encoder.layers.{}.layer_norm1.weight", "vision_model.post_layernorm.weight"
TEXT_NORM = "text_model.layers.{}.input_layernorm.weight"
"""Weights of the norms at the borders between layers."""


@dataclass(frozen=True)
class Cut:
    """A graph of a folder whose parts can be run alone."""

    folder: Path
    model: Callable[[], ir.Model]

    @classmethod
    def open(cls, folder: Path, graph: GraphName) -> Cut:
        return cls(folder, lambda: load_graph(folder, graph))

    def input_of(self, weight: str) -> str:
        """Name of the value that the normalisation with this weight reads: a border between layers."""
        initializer = self.model().graph.initializers[weight]
        (node,) = initializer.consumers()
        value = node.inputs[0]
        assert value is not None
        assert value.name is not None
        return value.name

    def borders(self, norm: str) -> list[str]:
        """Names of the values that enter each layer, in order; `norm` names a layer's first norm by its number."""
        initializers = self.model().graph.initializers
        norms = itertools.takewhile(initializers.__contains__, (norm.format(i) for i in itertools.count()))
        return [self.input_of(name) for name in norms]

    def run(self, inputs: dict[str, Tensor], outputs: list[str]) -> list[NDArray[np.float32]]:
        """Run the part between inputs and outputs, which are values of the graph; float32 results."""
        model = self.model()
        types = {value.name: value.dtype for node in model.graph for value in node.outputs}
        part = ir.Model(ir.convenience.extract(model.graph, list(inputs), outputs), ir_version=model.ir_version)
        for value in (*part.graph.inputs, *part.graph.outputs):
            dtype = types.get(value.name)
            if value.dtype is None and dtype is not None:
                value.dtype = dtype
        widen_model(part)
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "part.onnx"
            ir.save(part, path, external_data="part.onnx.data")
            options = ort.SessionOptions()
            options.log_severity_level = 3
            session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            return [widen(array) for array in run(session, **inputs)]


def whole_prompt(sizes: ModelSizes, embeds: Tensor) -> dict[str, Tensor]:
    """The decoder's inputs for a prompt [1, seq, hidden] behind nothing, with logits wanted everywhere.

    Every part gets all of them: the graph reads batch and cache sizes off the first that has them.
    """
    count = embeds.shape[1]
    empty = torch.zeros(1, sizes.num_key_value_heads, count, sizes.head_dim)
    call = {"inputs_embeds": embeds, "attention_mask": torch.ones(1, count, dtype=torch.int64)}
    call["logit_positions"] = torch.arange(count)[None]
    return call | dict.fromkeys(key_value_names(sizes.num_layers, "past_key_values"), empty)
