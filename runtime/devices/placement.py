"""Which nodes of a graph run on which provider, and whether that is right."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Any

from ...graphs.contract import Manifest
from .device import CPU

RECORD_PLACEMENT = "session.record_ep_graph_assignment_info"
"""Session option: keep count of what runs where, for `placement`."""
_LAYERS_WORK = {
    "Attention", "GroupQueryAttention", "MultiHeadAttention", "MatMul", "FusedMatMul", "Gemm", "MatMulNBits",
    "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
}  # fmt: skip
"""Operators that a GPU must run: were they left to the CPU, every layer's numbers would cross the bus."""


def placement(session: Any) -> dict[str, int]:
    """How many nodes of a graph run on each provider, most first; empty for sessions that keep no count."""
    nodes: Counter[str] = Counter()
    with contextlib.suppress(Exception):  # ONNX Runtime's errors share no base but this
        for part in session.get_provider_graph_assignment_info():
            nodes[part.ep_name] += len(part.get_nodes())
    return dict(nodes.most_common())


def left_to_the_cpu(session: Any) -> str:
    """Operators of the layers that no GPU runs, and how many; empty for sessions that keep no count."""
    found: Counter[str] = Counter()
    with contextlib.suppress(Exception):
        for part in session.get_provider_graph_assignment_info():
            if part.ep_name == CPU:
                found.update(node.op_type for node in part.get_nodes() if node.op_type in _LAYERS_WORK)
    return ", ".join(f"{count} {name}" for name, count in found.items())


def export_for_gpus(manifest: Manifest) -> str:
    """What to export for a GPU instead."""
    if manifest.quantisation:
        return "Export with --int4 --for cuda, or with --fp16"
    return "Export with --fp16 or --bf16" + (", or with --attention standard" if manifest.attention == "fused" else "")
