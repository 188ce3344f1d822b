"""Put small weights in the place of a traced graph's matrices: which packing each gets, and the operators that read it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import onnx_ir as ir
import torch

from ...graphs.contract import AttentionFlavour, Dtype, GraphName, Manifest, Precision
from ..errors import CheckpointError
from ..models.fake import TORCH_DTYPES
from ..models.family import Worth
from ..packing import Channels, Groups, Packing
from ..source.awq import AwqMatrix
from ..source.checkpoint import Stored
from ..source.source_model import SourceModel
from ..trace import ONNX_DTYPES, OPERATORS, PackedWeight, TracedGraph

Target = Literal["cpu", "cuda"]
GROUP_SIZES = (16, 32, 64, 128, 256)
DEFAULT_GROUP = 128
_FINE_GROUP, _MIXED_GROUP = 16, 32
"""Columns that share a scale where 4 bits are to be finer, which GPUs multiply by about as fast; and those that CUDA's mixed GEMM
takes, which stay as they are."""
_SMALL = ("cross", "embedding")
"""Graphs that are int8 in int4 folders, too."""


@dataclass(frozen=True)
class Quantisation:
    """What a quantised folder is made for."""

    precision: Literal["int8", "int4"]
    target: Target = "cpu"
    group: int = DEFAULT_GROUP
    """Columns that share a scale, one of GROUP_SIZES."""
    symmetric: bool = True
    smallest: bool = False
    """Whether int4 takes 4 bits even where they cost the most for their size."""
    fast_prompts: bool = False
    """Whether an int8 decoder stands beside the int4 one."""

    @classmethod
    def of(cls, manifest: Manifest, graph: GraphName) -> Quantisation | None:
        """What one graph of a folder was quantised by, if at all."""
        if manifest.quantisation is None:
            return None
        try:
            found = cls(**manifest.quantisation)
        except TypeError as error:
            raise CheckpointError(f"The manifest's quantisation cannot be read ({error}). Export the model again.") from error
        return found.of_prompts if graph == "prompt" else found

    @property
    def dtype(self) -> Dtype:
        """What the graphs compute with."""
        return "fp32" if self.target == "cpu" else "fp16"

    def precisions(self, graphs: Iterable[GraphName]) -> dict[GraphName, Precision]:
        """Of these graphs, and of the one for fast prompts."""
        found: dict[GraphName, Precision] = {name: "int8" if name in _SMALL else self.precision for name in graphs}
        if self.fast_prompts:
            found["prompt"] = "int8"
        return found

    @property
    def of_prompts(self) -> Quantisation:
        """The int8 decoder's, beside an int4 one."""
        return replace(self, precision="int8", smallest=False)

    def __post_init__(self) -> None:
        for what, value, known in (
            ("precision", self.precision, ("int8", "int4")),
            ("target", self.target, ("cpu", "cuda")),
            ("group", self.group, GROUP_SIZES),
        ):
            if value not in known:
                raise CheckpointError(f"Quantisation's {what} is {value!r:.60}. Choose one of {', '.join(map(str, known))}.")
        if self.smallest and self.precision != "int4":
            raise CheckpointError("Quantisation's smallest is a kind of int4. Leave it out for int8.")
        if self.fast_prompts and self.target != "cpu":
            raise CheckpointError("Quantisation's fast_prompts are for CPUs. Leave them out for cuda.")

    def packing(self, graph: GraphName, stored: Stored, dtype: torch.dtype, worth: Worth) -> Packing:
        """How one matrix of a graph is packed; `dtype` is what it computes with."""
        if graph == "embedding":
            return Groups(8, self._group_of_rows(stored.shape[1]), True, dtype, padded=False)
        if self.precision == "int4" and isinstance(stored, AwqMatrix) and stored.group in GROUP_SIZES:  # as it is
            return Groups(4, stored.group, False, dtype, kept=True)
        small = graph in _SMALL
        bits: Literal[4, 8] = 8 if small else self._bits(worth)
        by_channel = small or graph == "vision" or (self.precision == "int8" and not worth.delicate)
        if bits == 8 and self.target == "cpu" and by_channel:
            return Channels()
        fine = bits == 4 and worth.fine and not self.smallest and self.group > _MIXED_GROUP
        return Groups(bits, _FINE_GROUP if fine else self.group, self.symmetric, dtype)

    def _group_of_rows(self, columns: int) -> int:
        """The groups of the embedding table: CUDA's GatherBlockQuantized counts them as if rows had no rest."""
        if self.target == "cpu" or columns % self.group == 0:
            return self.group
        whole = [size for size in GROUP_SIZES if size < self.group and columns % size == 0]
        if not whole:
            raise CheckpointError(
                f"Embeddings have {columns} numbers, which groups of {GROUP_SIZES[0]} do not divide, as CUDA "
                "needs it. Export with --fp16, or leave out --for cuda."
            )
        return whole[-1]

    def _bits(self, worth: Worth) -> Literal[4, 8]:
        if self.precision == "int8" or worth.always:
            return 8
        return 8 if worth.costly and not self.smallest else 4


def joins_projections(attention: AttentionFlavour, quantisation: Quantisation | None) -> bool:
    """Whether a folder's decoder has queries, keys and values in one product. In one they have the same bits: processors wait for
    bytes, and their int4 has values alone in 8; GPUs wait for small products.
    """
    return OPERATORS[attention].joins and (quantisation is None or quantisation.target == "cuda")


_ONNX_DTYPES = ONNX_DTYPES | {torch.int8: ir.DataType.INT8, torch.uint8: ir.DataType.UINT8}
_LEVELS = 127
"""Integers that a row may have on each side of zero."""


def quantise(traced: TracedGraph, quantisation: Quantisation, model: SourceModel) -> TracedGraph:
    """Replace every product with a matrix of weights, and the lookup of embeddings."""
    rewriter = _Rewriter(traced.model.graph)
    weights, packed = dict(traced.weights), []
    for node in list(traced.model.graph):
        value = node.inputs[1] if node.op_type == "MatMul" else node.inputs[0] if node.op_type == "Gather" else None
        name = value.name if value is not None else None
        weight = weights.get(name) if name is not None else None
        if weight is None or not isinstance(weight.origin, str) or "position_embedding" in weight.origin:
            continue
        assert value is not None
        assert name is not None
        assert value.shape is not None
        shape = value.shape.numpy()
        rows, columns = shape[::-1] if weight.transposed else shape
        worth = model.family.worth(name, model.sizes)
        packing = quantisation.packing(traced.name, model.stored(weight.origin), weight.dtype, worth)
        parts = rewriter.parts(name.removesuffix(".T").removesuffix(".weight"), packing, rows, columns)
        packed.append(PackedWeight(weight.origin, packing, tuple(str(part.name) for part in parts)))
        if isinstance(packing, Channels):
            rewriter.multiply_rows(node, parts)
        else:
            assert isinstance(packing, Groups)
            rewriter.use_groups(node, packing, parts, rows, columns)
        del weights[name], traced.model.graph.initializers[name]
    traced.model.graph.opset_imports.setdefault("com.microsoft", 1)
    return replace(traced, weights=weights, packed=packed)


def folder_bytes(shapes: dict[str, tuple[int, ...]], dtype: Dtype, quantisation: Quantisation | None) -> int:
    """Size of all weights in a model folder, about, known before the trace; tied weights are stored twice."""
    width = TORCH_DTYPES[dtype].itemsize
    if quantisation is None:
        return sum(map(math.prod, shapes.values())) * width
    scales = 8 * width / quantisation.group  # bits a weight
    bits = 8.5 if quantisation.precision == "int8" else 5.0  # some parts stay wider
    bits += scales + (8.5 if quantisation.fast_prompts else 0)
    return sum(int(math.prod(shape) * (bits / 8 if len(shape) == 2 else width)) for shape in shapes.values())


class _Rewriter:
    """Puts nodes in the place of others."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._rows: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        """Activations that are quantised already: as integers, and each row's scale."""

    def parts(self, stem: str, packing: Packing, rows: int, columns: int) -> list[ir.Value]:
        """New initializers, whose data the weights' writer adds."""
        values = []
        for part, (dtype, shape) in zip(("quantised", "scales", "zeros"), packing.parts(rows, columns), strict=False):
            value = ir.Value(name=f"{stem}.{part}", type=ir.TensorType(_ONNX_DTYPES[dtype]), shape=ir.Shape(shape))
            self._graph.initializers.add(value)
            values.append(value)
        return values

    def use_groups(self, node: ir.Node, packing: Groups, parts: list[ir.Value], rows: int, columns: int) -> None:
        data, scales, *zeros = parts
        if node.op_type == "Gather":
            attributes: dict[str, Any] = {"bits": packing.bits, "block_size": packing.size, "gather_axis": 0, "quantize_axis": 1}
            self._replace(node, "GatherBlockQuantized", [data, node.inputs[1], scales, *zeros], attributes)
            return
        attributes = {"K": columns, "N": rows, "bits": packing.bits, "block_size": packing.size}
        if packing.dtype == torch.float32:
            attributes["accuracy_level"] = 4  # activations as integers, too, by groups
        self._replace(node, "MatMulNBits", [node.inputs[0], data, scales, *zeros], attributes)

    def multiply_rows(self, node: ir.Node, parts: list[ir.Value]) -> None:
        """Integers of each row, scaled by its own largest number, times integers of each output: ONNX Runtime's own fused
        operator has one scale for all rows, which one large row makes too coarse for the others.
        """
        integers, scale = self._quantised_rows(node, node.inputs[0])
        one, zero = self._constant("one", ir.tensor(1.0)), self._constant("row_zero", ir.tensor(128, ir.DataType.UINT8))
        product = self._new(node, "MatMulIntegerToFloat", [integers, parts[0], one, parts[1], zero], domain="com.microsoft")
        self._replace(node, "Mul", [product, scale], {}, domain="")

    def _quantised_rows(self, before: ir.Node, x: ir.Value | None) -> tuple[ir.Value, ir.Value]:
        assert x is not None
        if x not in self._rows:
            last = self._constant("last_axis", ir.tensor([-1]))
            lowest, highest = (self._new(before, f"Reduce{which}", [x, last], {"keepdims": 1}) for which in ("Min", "Max"))
            # A row of zeros has a scale, too.
            tiny = self._constant("tiny", ir.tensor(1e-30))
            largest = self._new(before, "Max", [self._new(before, "Neg", [lowest]), highest, tiny])
            levels = self._constant("levels", ir.tensor(float(_LEVELS)))
            one, zero = self._constant("one", ir.tensor(1.0)), self._constant("row_zero", ir.tensor(128, ir.DataType.UINT8))
            filling = self._new(before, "Mul", [x, self._new(before, "Div", [levels, largest])])
            self._rows[x] = (
                self._new(before, "QuantizeLinear", [filling, one, zero]),
                self._new(before, "Div", [largest, levels]),
            )
        return self._rows[x]

    def _constant(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        if name not in self._graph.initializers:
            shape = ir.Shape(tensor.shape.numpy())
            value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
            self._graph.initializers.add(value)
        return self._graph.initializers[name]

    def _new(
        self, before: ir.Node, operator: str, inputs: list[Any], attributes: dict[str, Any] | None = None, domain: str = ""
    ) -> ir.Value:
        node = ir.node(operator, inputs, attributes, domain=domain)
        self._graph.insert_before(before, node)
        return node.outputs[0]

    def _replace(
        self, node: ir.Node, operator: str, inputs: list[Any], attributes: dict[str, Any], domain: str = "com.microsoft"
    ) -> None:
        result, old = self._new(node, operator, inputs, attributes, domain), node.outputs[0]
        result.type = old.type if old.dtype is not None else None
        name, result.shape = old.name, old.shape
        ir.convenience.replace_all_uses_with(old, result, replace_graph_outputs=True)
        self._graph.remove(node, safe=True)
        result.name = name
