"""Sums that fused graphs make in one operator with the norm that reads them."""

from __future__ import annotations

import onnx_ir as ir

_NORMS = {
    "SkipSimplifiedLayerNormalization": ("SimplifiedLayerNormalization", 1), "SkipLayerNormalization": ("LayerNormalization", 2),
}  # fmt: skip
"""The norm in each operator, and how many weights that has."""


def take_apart(model: ir.Model) -> None:
    """Put a sum and a norm in the place of each, so that the graph can be cut between them; it computes the same."""
    for node in [node for node in model.graph if node.op_type in _NORMS]:
        if any(value.uses() for value in node.outputs[1:3]):
            continue  # means and deviations, which no other norm gives: no graph of ours
        norm, count = _NORMS[node.op_type]
        added, x, *rest = node.inputs
        parts = []
        if len(rest) > count:  # the bias of what is added
            parts.append(ir.node("Add", [added, rest[count]]))
            (added,) = parts[0].outputs
            added.type = node.outputs[0].type
        total = ir.node("Add", [x, added])
        normed = ir.node(norm, [*total.outputs, *rest[:count]], node.attributes)
        old, new = [node.outputs[0], *node.outputs[3:]], [*normed.outputs, *total.outputs]
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], [*parts, total, normed], old, new[: len(old)])
