"""A model folder's graphs in the layout that transformers.js opens: three sessions by its names, with its inputs and no others.

    onnx/vision_encoder.onnx         pixel_values → image_features
    onnx/embed_tokens.onnx           input_ids → inputs_embeds
    onnx/decoder_model_merged.onnx   inputs_embeds, attention_mask, past_key_values.* → logits of the last token, present.*

Each name has the suffix of its precision (`_fp16`, `_int8`, `_q4`, `_q4f16`) and its weights beside it in `.onnx_data`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ..graphs.contract import GRAPHS, MANIFEST, Dtype, GraphName, Manifest, data_file, graph_file
from .errors import CheckpointError
from .models.family import Family

_NAMES: dict[GraphName, str] = {
    "vision": "vision_encoder", "embedding": "embed_tokens", "decoder": "decoder_model_merged",
}  # fmt: skip
_TYPES = {"fp32": "fp32", "fp16": "fp16", "int8": "int8", "int4": "q4"}


def check_layout(family: Family, dtype: Dtype, fast_prompts: bool) -> None:
    """Raise CheckpointError for a folder that has no form in this layout."""
    if family.graph_names != GRAPHS:
        raise CheckpointError(
            f"transformers.js has three sessions, {', '.join(GRAPHS)}, and {family.title} has {', '.join(family.graph_names)}. "
            "Export without --layout."
        )
    if dtype == "bf16":
        raise CheckpointError("transformers.js has no bfloat16. Export with --fp16, --fp32, --int8 or --int4.")
    if fast_prompts:
        raise CheckpointError("transformers.js has one decoder for prompts and answers. Export without --fast-prompts.")


def to_transformers_js(folder: Path, manifest: Manifest) -> None:
    """Turn a finished model folder into that layout, in place; weights are renamed, not copied."""
    inner = folder / "onnx"
    shutil.rmtree(inner, ignore_errors=True)  # of a run that was stopped here
    inner.mkdir()
    edits = {"vision": lambda _: None, "embedding": _tokens_alone, "decoder": _last_logits}
    for graph in GRAPHS:
        model = ir.load(folder / graph_file(graph))
        edits[graph](model)
        name = Path(sessions(manifest)[_NAMES[graph]][0]).name
        (folder / data_file(graph)).rename(inner / f"{name}_data")
        for value in model.graph.initializers.values():
            if isinstance(tensor := value.const_value, ir.ExternalTensor):
                value.const_value = ir.ExternalTensor(
                    f"{name}_data",
                    tensor.offset,
                    tensor.length,
                    tensor.dtype,
                    shape=tensor.shape,
                    name=tensor.name,
                    base_dir=inner,
                )
        (inner / name).write_bytes(ir.to_proto(model).SerializeToString())
        (folder / graph_file(graph)).unlink()
    _write_config(folder / "config.json")
    (folder / MANIFEST).unlink(missing_ok=True)


def sessions(manifest: Manifest) -> dict[str, tuple[str, str]]:
    """The file of each of that library's sessions, and the dtype by which it looks for it."""
    found = {}
    for graph in GRAPHS:
        precision = manifest.precision[graph]
        dtype = "q4f16" if (precision, manifest.dtype) == ("int4", "fp16") else _TYPES[precision]
        found[_NAMES[graph]] = f"onnx/{_NAMES[graph]}{'' if dtype == 'fp32' else f'_{dtype}'}.onnx", dtype
    return found


def _tokens_alone(model: ir.Model) -> None:
    """The embedding graph without image features, which transformers.js merges by itself."""
    graph = model.graph
    (merge,) = (node for node in graph if node.op_type == "Where")
    tokens, output = merge.inputs[1], graph.outputs[0]
    assert tokens is not None
    tokens.name, tokens.type, tokens.shape = output.name, output.type, output.shape
    graph.outputs[0] = tokens
    _tidy(model)


def _last_logits(model: ir.Model) -> None:
    """The decoder without logit_positions: each row's last."""
    graph = model.graph
    positions = next(value for value in graph.inputs if value.name == "logit_positions")
    embeds = next(value for value in graph.inputs if value.name == "inputs_embeds")
    one = ir.Value(name="one", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([1]))
    one.const_value = ir.tensor(np.array([1], np.int64), name="one")
    graph.initializers.add(one)
    rows = ir.node("Shape", [embeds], {"start": 0, "end": 1}, name="rows")
    tokens = ir.node("Shape", [embeds], {"start": 1, "end": 2}, name="tokens")
    last = ir.node("Sub", [tokens.outputs[0], one], name="last")
    shape = ir.node("Concat", [rows.outputs[0], one], {"axis": 0}, name="positions_shape")
    spread = ir.node("Expand", [last.outputs[0], shape.outputs[0]], name="logit_positions")
    added = [rows, tokens, last, shape, spread]
    for node in added:
        node.outputs[0].name = f"{node.name}.out"
    graph.insert_before(graph[0], added)
    ir.convenience.replace_all_uses_with(positions, spread.outputs[0])
    graph.inputs.remove(positions)


def _tidy(model: ir.Model) -> None:
    """Without nodes, inputs and weights that lead nowhere any more."""
    RemoveUnusedNodesPass()(model)
    graph = model.graph
    for value in list(graph.inputs):
        if not value.uses():
            graph.inputs.remove(value)
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]


def _write_config(path: Path) -> None:
    """What transformers.js looks up in config.json: that weights lie beside the graphs, and the cache's type."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    content["transformers.js_config"] = {
        "use_external_data_format": True,
        "kv_cache_dtype": {"fp16": "float16", "q4f16": "float16"},
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
