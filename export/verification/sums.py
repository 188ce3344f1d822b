"""Sums that fused graphs make in one operator with the norm that reads them."""

from __future__ import annotations

import onnx_ir as ir

_SUMMED = "SkipSimplifiedLayerNormalization"


def take_apart(model: ir.Model) -> None:
    """Put a sum and a norm in the place of each, so that the graph can be cut between them; it computes the same."""
    for node in [node for node in model.graph if node.op_type == _SUMMED]:
        if len(node.inputs) != 3 or any(value.uses() for value in node.outputs[1:3]):
            continue  # no graph of ours, and no norm by its attributes
        added, x, weight = node.inputs
        total = ir.node("Add", [x, added])
        normed = ir.node("SimplifiedLayerNormalization", [*total.outputs, weight], node.attributes)
        old, new = [node.outputs[0], *node.outputs[3:]], [*normed.outputs, *total.outputs]
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], [total, normed], old, new[: len(old)])
