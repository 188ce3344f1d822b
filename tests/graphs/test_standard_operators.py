"""The standard flavour beside what TensorRT reads, by its published list: nothing here has TensorRT."""

from __future__ import annotations

import onnx
import pytest
from idefics2_onnx.graphs.contract import GRAPHS, graph_file
from onnx import NodeProto, TensorProto
from tensorrt_operators import OPERATORS, OPSETS

CASES = [("window", "fp32"), ("window", "fp16"), ("odd_heads", "fp32")]


@pytest.mark.parametrize(("name", "precision"), CASES)
@pytest.mark.parametrize("graph", GRAPHS)
def test_every_operator_is_on_the_list(graph, name, precision, exported):
    proto = onnx.load(exported(name, precision, "standard") / graph_file(graph), load_external_data=False)
    assert {node.op_type for node in proto.graph.node} <= OPERATORS
    assert all(opset.version in OPSETS for opset in proto.opset_import)


@pytest.mark.parametrize(("name", "precision"), CASES)
@pytest.mark.parametrize("graph", GRAPHS)
def test_the_lists_restrictions_are_kept(graph, name, precision, exported):
    proto = onnx.load(exported(name, precision, "standard") / graph_file(graph), load_external_data=False)
    proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    values = [*proto.graph.value_info, *proto.graph.input, *proto.graph.output]
    types = {value.name: value.type.tensor_type for value in values}
    constant = {i.name for i in proto.graph.initializer} | {n.output[0] for n in proto.graph.node if n.op_type == "Constant"}
    rank = {name: len(found.shape.dim) for name, found in types.items() if found.HasField("shape")}
    rank |= {i.name: len(i.dims) for i in proto.graph.initializer}

    def attributes(node: NodeProto) -> dict:
        return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}

    for node in proto.graph.node:
        found = attributes(node)
        if node.op_type == "Attention":
            assert [rank[each] for each in node.input] in ([4, 4, 4], [4, 4, 4, 4])
            assert len(node.output) == 1
            assert found.keys() <= {"scale"}
        elif node.op_type == "TensorScatter":
            assert found["axis"] == -2
            assert rank[node.input[0]] == rank[node.input[1]] == 4
        elif node.op_type == "RotaryEmbedding":
            assert types[node.input[3]].elem_type == TensorProto.INT64
        elif node.op_type == "LayerNormalization":
            assert len(node.output) == 1
        elif node.op_type.startswith("Reduce") or node.op_type in ("Squeeze", "Unsqueeze"):
            assert set(node.input[1:]) <= constant
        elif node.op_type == "Clip":
            assert types[node.input[0]].elem_type not in (TensorProto.INT32, TensorProto.INT64)
