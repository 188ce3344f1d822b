"""Trace a model's graphs from a transformers model that never holds its weights.

The model is built under FakeTensorMode: shapes and dtypes only. Each initializer of a traced graph is left without data and
with the name of the checkpoint tensor it stands for; `weights` fills them one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, IdentityEliminationPass, RemoveUnusedNodesPass
from torch import Tensor

from ..graphs.contract import AttentionFlavour, Dtype, GraphName, ModelSizes, interface
from ..graphs.operators import Fused, Operators, Standard
from .models.fake import TORCH_DTYPES, fake_mode, fake_model
from .models.known import family_of
from .packing import Packing

ONNX_DTYPES = {
    torch.float32: ir.DataType.FLOAT, torch.float16: ir.DataType.FLOAT16, torch.bfloat16: ir.DataType.BFLOAT16,
}  # fmt: skip
OPERATORS: dict[AttentionFlavour, type[Operators]] = {"fused": Fused, "standard": Standard}


@dataclass(frozen=True)
class Weight:
    """Where an initializer's data comes from: a tensor of the checkpoint by name, or a tensor computed here."""

    origin: str | Tensor
    dtype: torch.dtype
    """The type of the data on disk."""
    transposed: bool = False


@dataclass(frozen=True)
class PackedWeight:
    """A matrix that is stored as small numbers with scales: several initializers from one tensor of the checkpoint."""

    origin: str
    packing: Packing
    initializers: tuple[str, ...]
    """In the order of the packing's parts."""


@dataclass(frozen=True)
class TracedGraph:
    """An ONNX graph whose weights are yet to come, by initializer name."""

    name: GraphName
    model: ir.Model
    weights: dict[str, Weight]
    packed: list[PackedWeight] = field(default_factory=list)
    """Weights that `quantise` has put in the place of others."""

    def copy(self, name: GraphName) -> TracedGraph:
        """The same graph under another name."""
        model = self.model.clone()
        model.graph.name = name
        return replace(self, name=name, model=model)


def trace_graphs(config: Any, sizes: ModelSizes, dtype: Dtype, attention: AttentionFlavour, joins: bool) -> Iterator[TracedGraph]:
    """The graphs of a model, one after another. `joins`: queries, keys and values in one product."""
    operators, family, kind = OPERATORS[attention](), family_of(config), TORCH_DTYPES[dtype]
    tables = family.tables_of(config, sizes)
    with fake_mode():
        model = fake_model(family.reference, config, dtype)
        modules = family.graphs(model, sizes, operators, kind, joins)
        names: dict[int, str] = {id(p): name for name, p in model.named_parameters()}
    for name, module in modules.items():
        with fake_mode():
            inputs, vary = family.example(name, sizes, kind)
            program = torch.onnx.export(
                # The optimiser folds constants, which fake tensors are not.
                module.eval(), inputs, dynamic_shapes=vary, opset_version=operators.opset, optimize=False, verbose=False
            )  # fmt: skip
            assert program is not None
            weights = {
                key: Weight(tables.get(key, names.get(id(parameter), key)), parameter.dtype)
                for key, parameter in module.named_parameters(remove_duplicate=False)
            }
        yield _finish(name, program.model, weights, sizes, dtype, operators.opset)


def _finish(
    name: GraphName, model: ir.Model, weights: dict[str, Weight], sizes: ModelSizes, dtype: Dtype, opset: int
) -> TracedGraph:
    """Names of the contract, one opset, transposes of weights moved into the weights, nothing left of the tracer."""
    graph = model.graph
    weights = _fold_transposes(graph, {key: weight for key, weight in weights.items() if key in graph.initializers})
    for node in graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            # Traced shapes know the cache's length before it grows; ONNX Runtime infers its own.
            value.shape = None
            value.metadata_props.clear()
    expected = interface(name, dtype, sizes)
    for values, specs in ((graph.inputs, expected.inputs), (graph.outputs, expected.outputs)):
        assert len(values) == len(specs), f"{name} was traced with {len(values)} tensors, the contract has {len(specs)}"
        for value, spec in zip(values, specs, strict=True):
            value.name, value.shape = spec.name, ir.Shape(spec.axes)
            value.metadata_props.clear()
    graph.opset_imports.clear()
    graph.opset_imports.update({"": opset} | {node.domain: 1 for node in graph if node.domain})
    for node in graph:
        node.version = None
    model.metadata_props.clear()
    model.functions.clear()
    for tidy in (CommonSubexpressionEliminationPass(), IdentityEliminationPass(), RemoveUnusedNodesPass()):
        tidy(model)
    for value in (value for node in graph if node.domain for value in node.outputs):
        if not value.uses() and not value.is_graph_output():
            value.name, value.type = "", None  # left out, or a kernel computes it
    graph.name, graph.doc_string, model.producer_name = name, None, "idefics2-onnx"
    return TracedGraph(name, model, weights)


def _fold_transposes(graph: ir.Graph, weights: dict[str, Weight]) -> dict[str, Weight]:
    """Store a weight as its MatMul reads it. Left to a session's constant folding, that copies every weight at each start."""
    result = dict(weights)
    for node in list(graph):
        source = node.inputs[0] if node.op_type == "Transpose" else None
        if source is None or source.name not in weights:
            continue
        assert source.shape is not None
        assert len(source.shape) == 2, f"{source.name} is transposed, but has {len(source.shape)} axes"
        weight = result[source.name]
        result[f"{source.name}.T"] = Weight(weight.origin, weight.dtype, transposed=True)
        folded = ir.Value(name=f"{source.name}.T", type=source.type, shape=ir.Shape(reversed(source.shape)))
        graph.initializers.add(folded)
        ir.convenience.replace_all_uses_with(node.outputs[0], folded)
        graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]
            result.pop(name, None)
    return result


def store_narrow(traced: TracedGraph, dtype: Dtype) -> TracedGraph:
    """Store what computes in fp32 in the graph's own type, and widen it in the graph: sessions fold that as they open."""
    graph, narrow, result = traced.model.graph, TORCH_DTYPES[dtype], dict(traced.weights)
    for name, weight in traced.weights.items():
        if weight.dtype == narrow or not weight.dtype.is_floating_point:
            continue
        wide = graph.initializers.pop(name)
        value = ir.Value(name=name, type=ir.TensorType(ONNX_DTYPES[narrow]), shape=wide.shape)
        graph.initializers.add(value)
        cast = ir.node("Cast", [value], {"to": ONNX_DTYPES[weight.dtype]}, name=f"{name}.wide")
        cast.outputs[0].name, cast.outputs[0].dtype = f"{name}.wide", ONNX_DTYPES[weight.dtype]
        graph.insert_before(graph[0], cast)
        ir.convenience.replace_all_uses_with(wide, cast.outputs[0])
        result[name] = replace(weight, dtype=narrow)
    return replace(traced, weights=result)
