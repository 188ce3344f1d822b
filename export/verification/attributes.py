"""A graph's norms and attentions, attribute by attribute, beside the reference's modules.

An epsilon of 1e-5 for 1e-6 or a window that is one token too wide changes numbers by less than narrow types round, and the
window of a real model is longer than any prompt that is quick to run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from ...graphs.contract import GraphName, Manifest
from ..source.source_model import SourceModel
from .comparison import Attention
from .cut import Cut, whole_prompt
from .graphs import load_graph, opened, reader
from .known import COMPARISONS

_NORMS = {"LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization"}
_FAR = 3
"""New tokens that the window is looked at with."""


def attribute_faults(folder: Path, manifest: Manifest, source: SourceModel, graph: GraphName) -> Iterator[str | None]:
    """For each norm and attention of a graph, None or what is wrong with it."""
    with torch.device("meta"):
        reference = source.family.reference._from_config(source.config)
    modules, attentions = COMPARISONS[manifest.architecture].modules(reference, graph)
    if not modules:
        return
    model, window = load_graph(folder, graph), source.sizes.sliding_window
    for path, module in modules.items():
        if isinstance(module, (nn.LayerNorm, *source.family.norms)):
            yield _norm_fault(model, graph, path, module)
    nodes = [node for node in model.graph if node.op_type in ("MultiHeadAttention", "Attention", "GroupQueryAttention")]
    if len(nodes) != len(attentions):
        yield f"{graph}.onnx has {len(nodes)} attentions, where the model has {len(attentions)}"
        return
    for number, (node, attention) in enumerate(zip(nodes, attentions, strict=True)):
        yield _attention_fault(node, graph, number, attention, window)
    cached = [number for number, attention in enumerate(attentions) if attention.cached]
    if cached and manifest.attention == "standard":
        yield _mask_fault(folder, manifest, graph, window, cached[0])


def _norm_fault(model: ir.Model, graph: GraphName, path: str, module: Any) -> str | None:
    weight = model.graph.initializers.get(f"{path}.weight")
    if weight is None or len(weight.consumers()) != 1:
        return None  # the comparison of weights says so
    node = reader(weight)
    expected = module.eps if isinstance(module, nn.LayerNorm) else module.variance_epsilon
    if node.op_type not in _NORMS:
        return f"{graph}.onnx reads {path} in a {node.op_type}, which is no norm"
    return _difference(f"{graph}.onnx's norm {path}", node, {"axis": -1, "epsilon": expected, "stash_type": 1})


def _attention_fault(node: ir.Node, graph: GraphName, number: int, attention: Attention, window: int | None) -> str | None:
    expected: dict[str, Any] = {"scale": attention.scale}
    if node.op_type == "MultiHeadAttention":
        expected |= {"num_heads": attention.heads}
    elif node.op_type == "GroupQueryAttention":
        heads = {"num_heads": attention.heads, "kv_num_heads": attention.key_value_heads}
        expected |= heads | {"do_rotary": 1, "local_window_size": window or -1}
    return _difference(f"{graph}.onnx's attention {number}", node, expected)


def _difference(what: str, node: ir.Node, expected: dict[str, Any]) -> str | None:
    """Attributes of a node that are not as expected; what is left out has its operator's default."""
    found = {name: attribute.value for name, attribute in node.attributes.items()}
    found = {"axis": -1, "stash_type": 1} | found if node.op_type in _NORMS else found
    for name in sorted({*found, *expected}):
        ours, theirs = found.get(name), expected.get(name)
        same = ours == theirs if not isinstance(theirs, float) else ours is not None and np.float32(ours) == np.float32(theirs)
        if not same:
            return f"{what} has the {name} {ours}, where the model has {theirs}"
    return None


def _mask_fault(folder: Path, manifest: Manifest, graph: GraphName, window: int | None, number: int) -> str | None:
    """The standard flavour computes what each token sees: looked at where the window ends, in the attention of this number."""
    sizes, cut = manifest.model, Cut.open(folder, graph)
    first = [node for node in cut.model.graph if node.op_type == "Attention"][number]
    mask = first.inputs[3] if len(first.inputs) > 3 else None
    if mask is None or mask.name is None:
        return f"{graph}.onnx's attentions have no mask"
    total = min(sizes.max_positions, (window or 2 * _FAR) + _FAR + 1)
    new = min(_FAR, total)
    call = whole_prompt(sizes, torch.zeros(1, new, sizes.hidden_size))
    call["attention_mask"] = torch.ones(1, total, dtype=torch.int64)
    past = torch.zeros(1, sizes.num_key_value_heads, total, sizes.head_dim)
    call |= {name: past for name in call if name.startswith("past_")}
    (found,) = opened(cut.part(list(call), [mask.name])).run(**call)
    places, tokens = np.arange(total), np.arange(total - new, total)[:, None]
    expected = (places <= tokens) & (places > tokens - (window or total))
    if not np.array_equal(found[0, 0].astype(bool), expected):
        counts = found[0, 0].sum(1).astype(int).tolist(), expected.sum(1).tolist()
        return f"{graph}.onnx's last {new} of {total} tokens see {counts[0]} tokens, where the model's see {counts[1]}"
    return None
