"""Trace the three graphs from a transformers model that never holds its weights.

The model is built under FakeTensorMode: shapes and dtypes only. Each initializer of a traced graph is left without data and
with the name of the checkpoint tensor it stands for; `weights` fills them one by one.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, IdentityEliminationPass, RemoveUnusedNodesPass
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim
from transformers import Idefics2Config, Idefics2ForConditionalGeneration
from transformers.models.mistral.modeling_mistral import MistralRotaryEmbedding

from ..graphs.contract import AttentionFlavour, Dtype, GraphName, ModelSizes, interface
from ..graphs.head import Head
from ..graphs.idefics2.decoder import Decoder
from ..graphs.idefics2.embedding import Embedding
from ..graphs.idefics2.positions import position_table
from ..graphs.idefics2.vision import Projection, Vision
from ..graphs.joined_attention import JoinedAttention
from ..graphs.operators import Fused, Operators, Standard
from .packing import Packing

TORCH_DTYPES: dict[Dtype, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
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


CONNECTOR = "model.connector."


def parameter_dtype(name: str, dtype: Dtype) -> torch.dtype:
    """What a parameter takes part in the computation as: the connector of fp16 in fp32, though it is stored in half."""
    return torch.float32 if dtype == "fp16" and name.startswith(CONNECTOR) else TORCH_DTYPES[dtype]


def fake_model(config: Idefics2Config, dtype: Dtype) -> Idefics2ForConditionalGeneration:
    """The reference model without data, computing with a type. Call under `fake_mode`."""
    model = Idefics2ForConditionalGeneration(config).eval()
    # Not model.to(dtype), which fake parameters do not allow. Tied parameters come apart, as they do in the graphs.
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        owner, _, leaf = name.rpartition(".")
        typed = torch.empty(parameter.shape, dtype=parameter_dtype(name, dtype))
        setattr(model.get_submodule(owner), leaf, nn.Parameter(typed, requires_grad=False))
    return model


@contextmanager
def fake_mode() -> Iterator[None]:
    """Tensors made inside have shapes and dtypes but no data; tracing is quiet."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with FakeTensorMode(), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def rotary_tables(config: Idefics2Config) -> tuple[Tensor, Tensor]:
    """cos and sin [max_positions, head_dim / 2] float32, computed by the reference's own rotary module."""
    text = config.text_config
    positions = torch.arange(text.max_position_embeddings)[None]
    cos, sin = MistralRotaryEmbedding(text)(torch.zeros((), dtype=torch.float32), positions)
    half = cos.shape[-1] // 2  # the reference stores each angle twice
    return cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous()


def joins_projections(attention: AttentionFlavour, quantised: bool) -> bool:
    """Whether a folder's decoder has queries, keys and values in one product. Quantised ones round each on its own."""
    return OPERATORS[attention].joins and not quantised


def trace_graphs(
    config: Idefics2Config, sizes: ModelSizes, dtype: Dtype, attention: AttentionFlavour, quantised: bool
) -> Iterator[TracedGraph]:
    """The three graphs of a model, one after another."""
    operators = OPERATORS[attention]()
    cos, sin = rotary_tables(config)
    with fake_mode():
        model = fake_model(config, dtype)
        model.model.connector.modality_projection = Projection(model.model.connector.modality_projection)
        model.lm_head = Head(model.lm_head)
        if joins_projections(attention, quantised):
            for layer in model.model.text_model.layers:
                layer.self_attn = JoinedAttention(layer.self_attn)
        names: dict[int, str] = {id(p): name for name, p in model.named_parameters()}
        kind = TORCH_DTYPES[dtype]
        decoder = Decoder(model, operators, *(torch.empty(table.shape, dtype=kind) for table in (cos, sin)))
        vision = Vision(model.model, operators, sizes.max_patches)
        modules: dict[GraphName, Callable[[], nn.Module]] = {
            "vision": lambda: vision,
            "embedding": lambda: Embedding(model.model),
            "decoder": lambda: decoder,
        }
    positions = torch.from_numpy(position_table(sizes.positions_per_side, sizes.max_patches))
    tables = {id(decoder.cos): cos, id(decoder.sin): sin, id(vision.positions): positions}
    for name, build in modules.items():
        with fake_mode():
            module = build()
            traced = _trace(name, module, sizes, dtype, operators.opset)
            weights = {
                key: Weight(tables.get(id(parameter), names.get(id(parameter), key)), parameter.dtype)
                for key, parameter in module.named_parameters(remove_duplicate=False)
            }
        yield _finish(name, traced, weights, sizes, dtype, operators.opset)


def _trace(name: GraphName, module: nn.Module, sizes: ModelSizes, dtype: Dtype, opset: int) -> ir.Model:
    kind, auto = TORCH_DTYPES[dtype], Dim.DYNAMIC
    batch, seq, past = 2, 3, 5
    inputs: tuple[Any, ...]
    shapes: tuple[Any, ...]
    if name == "vision":
        side = 2 * sizes.patch_size
        pixels = torch.zeros(2, 3, side, side + sizes.patch_size, dtype=torch.float32 if dtype == "bf16" else kind)
        inputs = (pixels,)
        shapes = ({0: auto, 2: auto, 3: auto},)
    elif name == "embedding":
        ids = torch.zeros(batch, seq, dtype=torch.int64)
        inputs = (ids, torch.zeros(4, sizes.hidden_size, dtype=kind), ids.clone())
        shapes = ({0: auto, 1: auto}, {0: auto}, {0: auto, 1: auto})
    else:
        cache = [
            tuple(torch.zeros(batch, sizes.num_key_value_heads, past, sizes.head_dim, dtype=kind) for _ in "kv")
            for _ in range(sizes.num_layers)
        ]
        inputs = (
            torch.zeros(batch, seq, sizes.hidden_size, dtype=kind),
            torch.ones(batch, seq + past, dtype=torch.int64),
            torch.zeros(batch, 2, dtype=torch.int64),
            cache,
        )
        two = {0: auto, 1: auto}
        shapes = (two, two, two, [({0: auto, 2: auto},) * 2] * sizes.num_layers)
    program = torch.onnx.export(
        # The optimiser folds constants, which fake tensors are not.
        module.eval(), inputs, dynamic_shapes=shapes, opset_version=opset, optimize=False, verbose=False
    )  # fmt: skip
    assert program is not None
    return program.model


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
