"""graphs/argmax.onnx, the graph that chooses greedy tokens where the logits are: python -m idefics2_onnx.export.argmax"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from ..graphs.contract import ARGMAX
from ..graphs.operators import FUSED_OPSET


def argmax_graph() -> ModelProto:
    """As the contract describes it."""
    tensor = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Add", ["logits", "bias"], ["biased"]),
        helper.make_node("ArgMax", ["biased"], ["token_ids"], axis=-1, keepdims=0),
        helper.make_node("ReduceSum", ["logits", "last"], ["total"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes, "argmax",
        [tensor("logits", TensorProto.FLOAT, ["batch", 1, "vocab"]), tensor("bias", TensorProto.FLOAT, ["vocab"])],
        [tensor("token_ids", TensorProto.INT64, ["batch", 1]), tensor("total", TensorProto.FLOAT, ["batch", 1])],
        [numpy_helper.from_array(np.array([-1]), "last")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", FUSED_OPSET)], ir_version=10)


if __name__ == "__main__":
    (Path(__file__).parents[1] / "graphs" / ARGMAX).write_bytes(argmax_graph().SerializeToString(deterministic=True))
