"""Faults to plant in a model folder, each of which a comparison has to find: in the graph's file, or in its weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from idefics2_onnx.graphs.contract import data_file, graph_file
from onnx import numpy_helper

_NUMPY = {1: np.float32, 10: np.float16, 16: np.uint16, 2: np.uint8, 3: np.int8}


def planted(folder: Path, fault: str, target: Path) -> Path:
    """A copy of a folder with a fault."""
    shutil.copytree(folder, target)
    (FAULTS | FUSED_FAULTS)[fault](target)
    return target


def _graph(folder: Path, name: str, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(folder / graph_file(name), load_external_data=False)
    change(model)
    (folder / graph_file(name)).write_bytes(model.SerializeToString())


def _weight(folder: Path, graph: str, name: str, change: Callable[[np.ndarray], np.ndarray | None]) -> None:
    """Change a weight in place, however it is stored: plain, transposed, or as integers (rows are outputs in all)."""
    model = onnx.load(folder / graph_file(graph), load_external_data=False)
    initializers = {i.name: i for i in model.graph.initializer}
    joined = name.replace(".q_proj.", ".qkv_proj.")  # queries come first there
    stored = [form for each in (name, joined) for form in (each, f"{each}.T", f"{each.removesuffix('.weight')}.quantised")]
    found = next(initializers[form] for form in stored if form in initializers)
    place = {entry.key: entry.value for entry in found.external_data}
    data = np.memmap(
        folder / data_file(graph), _NUMPY[found.data_type], "r+", int(place.get("offset", 0)), tuple(found.dims)
    )  # fmt: skip
    outputs_last = found.name.endswith(".T") or found.data_type == onnx.TensorProto.INT8
    view = data.T if outputs_last and data.ndim == 2 else data
    if found.data_type == onnx.TensorProto.BFLOAT16:
        wide = (np.asarray(view).astype(np.uint32) << 16).view(np.float32)
        changed = np.asarray(change(wide.copy()), np.float32)
        view[...] = (changed.view(np.uint32) >> 16).astype(np.uint16)
    else:
        view[...] = change(np.array(view)).astype(view.dtype)
    data.flush()


def _nodes(model: onnx.ModelProto, *kinds: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type in kinds]


def _rows_off(weight: np.ndarray) -> np.ndarray:
    """Every tenth row by 2 %, or by a step where rows are integers too small for that."""
    changed = weight.astype(np.float64)
    changed[::10] *= 1.02
    rounded = np.rint(changed) if weight.dtype.kind in "iu" else changed
    return np.clip(rounded, np.iinfo(weight.dtype).min, np.iinfo(weight.dtype).max) if weight.dtype.kind in "iu" else rounded


def _swapped_heads(weight: np.ndarray) -> np.ndarray:
    size = len(weight) // 4
    return np.concatenate([weight[size : 2 * size], weight[:size], weight[2 * size :]])


def _transposed(weight: np.ndarray) -> np.ndarray:
    flat = weight.reshape(len(weight), -1)
    if flat.shape[0] == flat.shape[1]:
        return flat.T.reshape(weight.shape)
    return weight[::-1]  # packed rows: none is square


_RMS_NORMS = ("SimplifiedLayerNormalization", "RMSNormalization", "SkipSimplifiedLayerNormalization")


def _epsilon(model: onnx.ModelProto) -> None:
    for node in _nodes(model, *_RMS_NORMS):
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                attribute.f = 1e-5 if attribute.f < 5e-6 else 1e-6


def _no_norm(model: onnx.ModelProto) -> None:
    node = _nodes(model, *_RMS_NORMS)[1]
    unnormed = node.output[3] if node.op_type.startswith("Skip") else node.input[0]
    for reader in model.graph.node:
        for index, name in enumerate(reader.input):
            if name == node.output[0]:
                reader.input[index] = unnormed


def _swapped(model: onnx.ModelProto, inputs: bool) -> None:
    """Of the norms of sums within the second layer: what comes out of the one, or what both weigh with."""
    first, second = [node for node in _nodes(model, *_RMS_NORMS) if any("layers.1." in name for name in node.input)]
    if inputs:
        first.input[2], second.input[2] = second.input[2], first.input[2]
    else:
        second.output[0], second.output[3] = second.output[3], second.output[0]


def _window(model: onnx.ModelProto) -> None:
    for node in _nodes(model, "GroupQueryAttention"):
        for attribute in node.attribute:
            if attribute.name == "local_window_size":
                attribute.i += 1
    subtracted = {name for node in _nodes(model, "Sub") for name in node.input}
    for node in _nodes(model, "Constant"):  # the standard flavour's
        value = node.attribute[0].t
        if node.output[0] in subtracted and numpy_helper.to_array(value).size == 1 and numpy_helper.to_array(value) > 2:
            node.attribute[0].t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(value) + 1))


_LAYER = "text_model.layers.1"
FAULTS: dict[str, Callable[[Path], object]] = {
    "rows off by 2 %": lambda f: _weight(f, "decoder", f"{_LAYER}.mlp.down_proj.weight", _rows_off),
    "two heads swapped": lambda f: _weight(f, "decoder", f"{_LAYER}.self_attn.q_proj.weight", _swapped_heads),
    "RoPE off by one position": lambda f: [_weight(f, "decoder", table, lambda t: np.roll(t, 1, 0)) for table in ("cos", "sin")],
    "epsilon": lambda f: _graph(f, "decoder", _epsilon),
    "epsilon of the connector": lambda f: _graph(f, "vision", _epsilon),
    "a missing norm": lambda f: _graph(f, "decoder", _no_norm),
    "a norm's weight off by 2 %": lambda f: _weight(f, "decoder", f"{_LAYER}.post_attention_layernorm.weight", _rows_off),
    "window off by one": lambda f: _graph(f, "decoder", _window),
    "a transposed matrix": lambda f: _weight(f, "decoder", f"{_LAYER}.self_attn.o_proj.weight", _transposed),
    "a zero bias": lambda f: _weight(f, "vision", "vision_model.encoder.layers.1.mlp.fc1.bias", np.zeros_like),
    "one position moved": lambda f: _weight(
        f, "vision", "vision_model.embeddings.position_embedding.weight", lambda table: np.concatenate([table[1:2], table[1:]])
    ),
}
FUSED_FAULTS: dict[str, Callable[[Path], object]] = {
    "sum and norm swapped": lambda f: _graph(f, "decoder", lambda model: _swapped(model, inputs=False)),
    "weights of norms swapped": lambda f: _graph(f, "decoder", lambda model: _swapped(model, inputs=True)),
}
"""Faults that only numbers find, of operators that fused decoders in half precision alone have."""


def _all_seen(model: onnx.ModelProto) -> None:
    """No image is hidden from any token."""
    for node in _nodes(model, "Constant"):
        value = numpy_helper.to_array(node.attribute[0].t) if node.attribute[0].HasField("t") else np.zeros(0)
        if value.size == 1 and value == -1e4:
            node.attribute[0].t.CopyFrom(numpy_helper.from_array(np.zeros_like(value)))


def _last_two_swapped(rows: np.ndarray) -> np.ndarray:
    """Rows of the small model's 260th and 261st token, of 262, padding aside."""
    return np.concatenate([rows[:260], rows[[261, 260]], rows[262:]])


_GATED = "gated_cross_attn_layers.0"
IDEFICS_FAULTS: dict[str, tuple[Callable[[Path], object], tuple[str, str]]] = {
    "a class token of zeros": (
        lambda f: _weight(f, "vision", "vision_model.embeddings.class_embedding", np.zeros_like), ("vision", "patches")
    ),
    "no bias of a head's norm": (
        lambda f: _weight(f, "vision", "perceiver_resampler.blocks.0.0.q_layer_norm.bias", np.zeros_like), ("vision", "perceiver 0")
    ),
    "two heads of keys swapped": (
        lambda f: _weight(f, "cross", f"{_GATED}.cross_attn.k_proj.weight", _swapped_heads), ("cross", "cross.0.key")
    ),
    "additional tokens swapped": (
        lambda f: _weight(f, "embedding", "embed_tokens.joined.weight", _last_two_swapped), ("embedding", "tokens")
    ),
    "additional words swapped": (
        lambda f: _weight(f, "decoder", "lm_head.padded.weight", _last_two_swapped), ("decoder", "logits")
    ),
    "a gate shut": (lambda f: _weight(f, "decoder", f"{_GATED}.alpha_cross_attn", np.zeros_like), ("decoder", "gated layer 0")),
    "every image seen": (lambda f: _graph(f, "decoder", _all_seen), ("decoder", "gated layer 0")),
    "rows off by 2 %": (lambda f: _weight(f, "decoder", f"{_GATED}.mlp.down_proj.weight", _rows_off), ("decoder", "gated layer 0")),
    "queries' norm off by 2 %": (
        lambda f: _weight(f, "decoder", f"{_GATED}.cross_attn.q_layer_norm.weight", _rows_off), ("decoder", "gated layer 0")
    ),
    "a transposed matrix": (
        lambda f: _weight(f, "decoder", "layers.1.self_attn.o_proj.weight", _transposed), ("decoder", "layer 1")
    ),
}  # fmt: skip
"""Faults of the small IDEFICS, and the graph and piece that each is in."""
