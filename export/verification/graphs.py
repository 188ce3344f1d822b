"""A folder's graphs, or parts of them, read and run in ONNX Runtime; bfloat16, which it has no kernels for, widened first."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
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
_BLOCK = 1 << 20
"""Numbers of a tensor that are copied at once."""
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


def is_matrix(weight: ir.Value) -> bool:
    """Whether it is the matrix [inputs, outputs] of a plain product."""
    return weight.shape is not None and len(weight.shape) == 2 and reader(weight).op_type == "MatMul"


@contextlib.contextmanager
def opened_folder(folder: Path, graph: GraphName, dtype: Dtype) -> Iterator[ort.InferenceSession]:
    """A session on a whole graph, as a user has it."""
    if dtype == "bf16":
        with opened(load_graph(folder, graph)) as session:
            yield session
        return
    yield _session(folder / graph_file(graph), ort.SessionOptions())


@contextlib.contextmanager
def opened(model: ir.Model, columns: slice = slice(None)) -> Iterator[ort.InferenceSession]:
    """A session on a loaded graph, or on a part of one. Its weights are copied: ONNX Runtime takes them from its own folder.

    Args:
        columns: which of its matrices' columns to take.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "part.onnx"
        data, offset = path.with_suffix(".onnx.data"), 0
        with data.open("wb") as file:
            for value in model.graph.initializers.values():
                tensor = value.const_value
                if isinstance(tensor, ir.ExternalTensor):
                    wide = ir.DataType.FLOAT if tensor.dtype == ir.DataType.BFLOAT16 else tensor.dtype
                    narrowed = columns if columns != slice(None) and is_matrix(value) else slice(None)
                    for part in _blocks(_stored(tensor), narrowed):
                        file.write(part.view(torch.uint8).numpy().data)
                    shape = tensor.shape
                    if narrowed != slice(None):
                        rows, width = shape.numpy()
                        value.shape = shape = ir.Shape([rows, len(range(width)[narrowed])])
                    value.const_value = _placed(tensor, data, offset, wide, shape)
                    offset = file.tell()
        _widen(model)
        # Parsed while its data file is there; the proto holds no weights.
        path.write_bytes(ir.to_proto(model).SerializeToString())
        options = ort.SessionOptions()
        if not any(node.domain for node in model.graph if node.op_type.startswith("MatMul")):
            # A second copy of each matrix, made for speed; products of small integers need theirs.
            options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_cpu_mem_arena = False
        yield _session(path, options)


def run(session: ort.InferenceSession, **inputs: Tensor | Array) -> list[NDArray[np.float32]]:
    """Run a session on tensors or arrays, floats cast to what the graph takes; results in float32."""
    types = {spec.name: spec.type for spec in session.get_inputs()}
    floats = {"tensor(float16)": np.float16, "tensor(float)": np.float32}
    feeds = {}
    for name, value in inputs.items():
        array = value.numpy() if isinstance(value, Tensor) else value
        feeds[name] = array.astype(floats[types[name]], copy=False) if types[name] in floats else array
    outputs: list[Array] = session.run(None, feeds)
    return [output.astype(np.float32, copy=False) for output in outputs]


def _session(path: Path, options: ort.SessionOptions) -> ort.InferenceSession:
    options.log_severity_level = 3
    # Without it, processors that have no 8-bit units add products of 8-bit numbers in 16 bits, which overflow.
    options.add_session_config_entry("session.x64quantprecision", "1")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _placed(tensor: ir.ExternalTensor, data: Path, offset: int, dtype: ir.DataType, shape: ir.Shape) -> ir.ExternalTensor:
    length = int(np.prod(shape.numpy()) * dtype.itemsize)
    return ir.ExternalTensor(data.name, offset, length, dtype, shape=shape, name=tensor.name, base_dir=data.parent)


def _stored(tensor: ir.ExternalTensor) -> FileTensor:
    dtype, shape = _TORCH_DTYPES[tensor.dtype], tuple(tensor.shape.numpy())
    return FileTensor(tensor.name, Path(tensor.path), dtype, shape, tensor.offset or 0)


def _blocks(tensor: FileTensor, columns: slice) -> Iterator[Tensor]:
    """The numbers of a tensor in order, bfloat16 widened; of a matrix, those of some columns."""
    rows = tensor.shape[0] if tensor.shape else 1
    step = max(1, _BLOCK * rows // max(1, int(np.prod(tensor.shape))))
    for start in range(0, rows, step):
        part = tensor.read(start, min(start + step, rows))
        part = (part if columns == slice(None) else part[:, columns]).flatten()
        yield part.float() if part.dtype == torch.bfloat16 else part


def _widen(model: ir.Model) -> None:
    """Turn what is left of bfloat16 into float32: values, constants, casts."""
    narrow, wide = ir.DataType.BFLOAT16, ir.DataType.FLOAT
    graph = model.graph
    for value in [*graph.inputs, *graph.outputs, *graph.initializers.values(), *(v for n in graph for v in n.outputs)]:
        if value.dtype == narrow:
            value.dtype = wide
        if value.const_value is not None and value.const_value.dtype == narrow:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)
    for node in graph:
        for key, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.INT and key == "to" and attribute.as_int() == narrow:
                node.attributes[key] = ir.AttrInt64(key, int(wide))
            elif attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == narrow:
                node.attributes[key] = ir.AttrTensor(key, ir.tensor(attribute.as_tensor().numpy().astype(np.float32)))
