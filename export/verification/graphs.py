"""A folder's graphs, or parts of them, read and run in ONNX Runtime; bfloat16, which it has no kernels for, widened first."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...graphs.contract import Dtype, GraphName, data_file, graph_file
from ..source.checkpoint import FileTensor
from .sums import take_apart

Array = NDArray[Any]
_TORCH_DTYPES = {
    ir.DataType.FLOAT: torch.float32, ir.DataType.FLOAT16: torch.float16, ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.INT8: torch.int8, ir.DataType.UINT8: torch.uint8, ir.DataType.INT32: torch.int32, ir.DataType.INT64: torch.int64,
}  # fmt: skip


def load_graph(folder: Path, graph: GraphName) -> ir.Model:
    """A graph of a folder, its sums taken out of norms.

    Its files may be links, as the hub's cache has them: the library takes none for the weights.
    """
    model = ir.load((folder / graph_file(graph)).resolve())
    data = (folder / data_file(graph)).resolve()
    for initializer in model.graph.initializers.values():
        tensor = initializer.const_value
        if isinstance(tensor, ir.ExternalTensor):
            initializer.const_value = _placed(tensor, data, tensor.offset or 0, tensor.dtype, tensor.shape)
    take_apart(model)
    return model


def stored_tensors(model: ir.Model) -> dict[str, FileTensor]:
    """Where the weights of a loaded graph lie."""
    external = {name: value.const_value for name, value in model.graph.initializers.items()}
    return {name: _stored(tensor) for name, tensor in external.items() if isinstance(tensor, ir.ExternalTensor)}


def reader(weight: ir.Value) -> ir.Node:
    """The node that computes with a weight, past the cast that widens it."""
    (node,) = weight.consumers()
    return reader(node.outputs[0]) if node.op_type == "Cast" else node


@dataclass(frozen=True)
class OpenedGraph:
    """A graph that can be run."""

    session: ort.InferenceSession
    weights: dict[str, ort.OrtValue] = field(default_factory=dict)
    """Those that are among its inputs."""

    def run(self, **inputs: Tensor | Array) -> list[NDArray[np.float32]]:
        """Run it on tensors or arrays, floats cast to what it takes, and what it does not take left out; results in float32."""
        floats = {"tensor(float16)": np.float16, "tensor(float)": np.float32}
        feeds = dict(self.weights)
        for spec in self.session.get_inputs():
            if spec.name not in feeds:
                value = inputs[spec.name]
                array = value.numpy() if isinstance(value, Tensor) else value
                array = np.ascontiguousarray(array, floats.get(spec.type))
                feeds[spec.name] = ort.OrtValue.ortvalue_from_numpy(array)
        outputs = self.session.run_with_ort_values([spec.name for spec in self.session.get_outputs()], feeds)
        return [output.numpy().astype(np.float32, copy=False) for output in outputs]


def opened_folder(folder: Path, graph: GraphName, dtype: Dtype) -> OpenedGraph:
    """A whole graph, as a user has it."""
    if dtype == "bf16":
        return opened(load_graph(folder, graph))
    return OpenedGraph(_session(folder / graph_file(graph), ort.SessionOptions()))


def opened(model: ir.Model, weights: dict[str, Tensor] | None = None) -> OpenedGraph:
    """A loaded graph, or a part of one, with no more in memory than its weights, and while it runs one of them widened.

    Args:
        weights: what `read_weights` gives, if it was read before.
    """
    _widen(model)
    graph, options = model.graph, ort.SessionOptions()
    weights = read_weights(model) if weights is None else weights
    values = {
        name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(_bits(weight), graph.initializers[name].dtype)
        for name, weight in weights.items()
    }
    options.enable_cpu_mem_arena = False
    if any(node.domain for node in graph if node.op_type.startswith("MatMul")):
        # Products of small integers need theirs to be constant.
        options.add_external_initializers(list(values), list(values.values()))
        values = {}
    for name in values:  # not as constants, which would be copied, and widened all at once
        value = graph.initializers.pop(name)
        value.const_value = None
        graph.inputs.append(value)
    return OpenedGraph(_session(ir.to_proto(model).SerializeToString(), options), values)


def read_weights(model: ir.Model) -> dict[str, Tensor]:
    """The weights of a loaded graph, or of a part of one, that lie in its data file."""
    return {
        name: tensor.read(0, tensor.shape[0] if tensor.shape else 1).reshape(tensor.shape)
        for name, tensor in stored_tensors(model).items()
    }


def _bits(weight: Tensor) -> Array:
    """A weight for ONNX Runtime, bfloat16 as integers of as many bits."""
    return (weight.view(torch.uint16) if weight.dtype == torch.bfloat16 else weight).numpy()


def _session(graph: Path | bytes, options: ort.SessionOptions) -> ort.InferenceSession:
    options.log_severity_level = 3
    # Without it, processors that have no 8-bit units add products of 8-bit numbers in 16 bits, which overflow.
    options.add_session_config_entry("session.x64quantprecision", "1")
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _placed(tensor: ir.ExternalTensor, data: Path, offset: int, dtype: ir.DataType, shape: ir.Shape) -> ir.ExternalTensor:
    length = int(np.prod(shape.numpy()) * dtype.itemsize)
    return ir.ExternalTensor(data.name, offset, length, dtype, shape=shape, name=tensor.name, base_dir=data.parent)


def _stored(tensor: ir.ExternalTensor) -> FileTensor:
    dtype, shape = _TORCH_DTYPES[tensor.dtype], tuple(tensor.shape.numpy())
    return FileTensor(tensor.name, Path(tensor.path), dtype, shape, tensor.offset or 0)


def _widen(model: ir.Model) -> None:
    """Turn what there is of bfloat16 into float32: values, constants, casts; weights as they are used."""
    narrow, wide = ir.DataType.BFLOAT16, ir.DataType.FLOAT
    graph = model.graph
    weights = {graph.initializers[name] for name in stored_tensors(model)}
    for value in [*graph.inputs, *graph.outputs, *graph.initializers.values(), *(v for n in graph for v in n.outputs)]:
        if value.dtype == narrow and value not in weights:
            value.dtype = wide
            if value.const_value is not None:
                value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)
    for node in graph:
        for key, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.INT and key == "to" and attribute.as_int() == narrow:
                node.attributes[key] = ir.AttrInt64(key, int(wide))
            elif attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == narrow:
                node.attributes[key] = ir.AttrTensor(key, ir.tensor(attribute.as_tensor().numpy().astype(np.float32)))
    for weight in (value for value in weights if value.dtype == narrow):
        widened = ir.node("Cast", [weight], {"to": int(wide)})
        uses = [(node, index) for node, index in weight.uses() if node is not widened]
        graph.insert_before(uses[0][0], widened)
        for node, index in uses:
            node.replace_input_with(index, widened.outputs[0])
