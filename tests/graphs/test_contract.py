"""The contract as a host in another language meets it: plain ONNX Runtime calls on the exported graphs."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from idefics2_onnx.graphs.contract import (
    GRAPHS,
    MANIFEST,
    Manifest,
    TensorSpec,
    data_file,
    graph_file,
    interface,
    key_value_names,
)
from idefics2_onnx.graphs.errors import ModelFolderError

FLAVOURS = ["fused", "standard"]


def manifest_of(folder) -> Manifest:
    return Manifest.from_dict(json.loads((folder / MANIFEST).read_text()))


def session(folder, graph) -> ort.InferenceSession:
    return ort.InferenceSession(folder / graph_file(graph), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("graph", GRAPHS)
def test_exported_interfaces(graph, precision, exported):
    folder = exported("window", precision)
    manifest = manifest_of(folder)
    proto = onnx.load(folder / graph_file(graph), load_external_data=False)
    names = {onnx.TensorProto.FLOAT: "float", onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.BFLOAT16: "bfloat16", onnx.TensorProto.INT64: "int64"}  # fmt: skip

    def spec(value) -> TensorSpec:
        axes = tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim)
        return TensorSpec(value.name, f"tensor({names[value.type.tensor_type.elem_type]})", axes)

    expected = interface(graph, precision, manifest.model)
    assert tuple(map(spec, proto.graph.input)) == expected.inputs
    assert tuple(map(spec, proto.graph.output)) == expected.outputs
    weights = [i for i in proto.graph.initializer if i.external_data]
    assert {entry.value for i in weights for entry in i.external_data if entry.key == "location"} == {data_file(graph)}


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("graph", GRAPHS)
def test_operators_take_bfloat16(graph, flavour, exported):
    """A processor runs none of it, so that nobody else here would notice."""
    proto = onnx.load(exported("window", "bf16", flavour) / graph_file(graph), load_external_data=False)
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)


@pytest.mark.parametrize("name", ["window", "odd_heads"])
def test_standard_flavour_has_only_standard_operators(name, exported):
    for graph in GRAPHS:
        path = exported(name, "fp32", "standard") / graph_file(graph)
        onnx.checker.check_model(str(path), full_check=True)
        proto = onnx.load(path, load_external_data=False)
        assert {node.domain for node in proto.graph.node} == {""}
        assert [(o.domain, o.version) for o in proto.opset_import] == [("", 24)]


def test_fused_decoder_is_fused(exported):
    proto = onnx.load(exported("window") / "decoder.onnx", load_external_data=False)
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds.count("GroupQueryAttention") == 2
    assert not {"Softmax", "RotaryEmbedding", "Transpose"} & set(kinds)


@pytest.mark.parametrize("graph", ["embedding", "decoder"])
def test_shapes_stay_on_the_host(graph, exported):
    """On a GPU, what is computed from shapes is computed by the processor: a step that used it as numbers would copy it over,
    and could not be recorded as a CUDA graph. Only attention's total length, which it wants on the host, comes from there."""
    proto = onnx.load(exported("window", "fp16") / f"{graph}.onnx", load_external_data=False)
    known = {i.name for i in proto.graph.initializer} | {n.output[0] for n in proto.graph.node if n.op_type == "Constant"}
    on_host: set[str] = set()
    for node in proto.graph.node:
        if set(node.input) <= known:
            known.update(node.output)
        elif node.op_type == "Shape" or (on_host & set(node.input) and set(node.input) <= on_host | known):
            on_host.update(node.output)
        elif taken := [place for place, name in enumerate(node.input) if name in on_host]:
            assert (node.op_type, taken) == ("GroupQueryAttention", [6])
    assert bool(on_host) == (graph == "decoder")


class Host:
    """A decoder driven with NumPy feeds."""

    def __init__(self, folder) -> None:
        self.manifest = manifest_of(folder)
        self.decoder, self.embedding = session(folder, "decoder"), session(folder, "embedding")
        model = self.manifest.model
        self.past = key_value_names(model.num_layers, "past_key_values")
        self.shape = lambda length: (1, model.num_key_value_heads, length, model.head_dim)

    def embed(self, ids) -> np.ndarray:
        ids = np.array([ids])
        rows = np.zeros((0, self.manifest.model.hidden_size), np.float32)
        return self.embedding.run(None, {"input_ids": ids, "image_features": rows, "feature_rows": ids * 0 - 1})[0]

    def call(self, ids, mask, cache) -> tuple[np.ndarray, list[np.ndarray]]:
        feeds = {
            "inputs_embeds": self.embed(ids),
            "attention_mask": np.array([mask]),
            "logit_positions": np.arange(len(ids))[None],
        }
        logits, *present = self.decoder.run(None, feeds | dict(zip(self.past, cache, strict=True)))
        return logits[0], present


@pytest.mark.parametrize(
    ("name", "flavour"), [("plain", "fused"), ("window", "fused"), ("window", "standard"), ("odd_heads", "standard")]
)
def test_cache_grows_or_has_room(name, flavour, exported):
    """An empty past that grows, a past with room, a chunk of several tokens and a mask with a tail all give the same."""
    host = Host(exported(name, "fp32", flavour))
    ids = np.random.default_rng(0).integers(3, 250, 14).tolist()
    whole, present = host.call(ids, [1] * 14, [np.zeros(host.shape(0), np.float32) for _ in host.past])
    assert all(p.shape == host.shape(14) for p in present)

    grown, cache = host.call(ids[:9], [1] * 9, [np.zeros(host.shape(0), np.float32) for _ in host.past])
    rows = [grown]
    for end in range(10, 15):
        logits, cache = host.call(ids[end - 1 : end], [1] * end, cache)
        assert all(p.shape == host.shape(end) for p in cache)
        rows.append(logits)
    assert np.abs(np.concatenate(rows) - whole).max() <= 1e-5

    roomy = [np.zeros(host.shape(20), np.float32) for _ in host.past]
    first, cache = host.call(ids[:9], [1] * 9, roomy)
    assert all(p.shape == host.shape(20) for p in cache)
    chunk, cache = host.call(ids[9:13], [1] * 13, cache)
    last, cache = host.call(ids[13:], [1] * 14 + [0] * 6, cache)
    assert np.abs(np.concatenate([first, chunk, last]) - whole).max() <= 1e-5


def test_logit_positions_choose_rows(exported):
    host = Host(exported("plain"))
    ids, empty = [5, 6, 7, 8], [np.zeros(host.shape(0), np.float32) for _ in host.past]
    feeds = {"inputs_embeds": host.embed(ids), "attention_mask": np.ones((1, 4), np.int64)} | dict(
        zip(host.past, empty, strict=True)
    )
    everywhere = host.call(ids, [1] * 4, empty)[0]
    chosen = host.decoder.run(None, feeds | {"logit_positions": np.array([[3, 0, 3]])})[0][0]
    assert np.abs(chosen - everywhere[[3, 0, 3]]).max() <= 1e-6


def test_features_may_lie_in_any_order(exported):
    folder = exported("plain")
    embedding, sizes = session(folder, "embedding"), manifest_of(folder).model
    features = np.random.default_rng(0).standard_normal((6, sizes.hidden_size)).astype(np.float32)
    ids, rows = np.array([[3, 4, 5], [6, 7, 8]]), np.array([[5, -1, 0], [-1, 2, 2]])
    merged = embedding.run(None, {"input_ids": ids, "image_features": features, "feature_rows": rows})[0]
    plain = embedding.run(None, {"input_ids": ids, "image_features": features[:0], "feature_rows": rows * 0 - 1})[0]
    assert (merged == np.where((rows >= 0)[..., None], features[rows], plain)).all()


def test_interface_refusal_names_found_and_expected(exported):
    sizes = manifest_of(exported("plain")).model
    vision = interface("vision", "fp32", sizes)
    found = dataclasses.replace(vision.inputs[0], type="tensor(double)")
    with pytest.raises(ModelFolderError, match=r"tensor\(double\).*tensor\(float\)"):
        vision.check("vision", [found], vision.outputs)
    with pytest.raises(ModelFolderError, match="no input pixel_values"):
        vision.check("vision", [], vision.outputs)
    with pytest.raises(ModelFolderError, match="extra"):
        vision.check("vision", vision.inputs, (*vision.outputs, TensorSpec("extra", "tensor(float)", ())))
    wrong_size = dataclasses.replace(vision.outputs[0], axes=("n", 999, sizes.hidden_size))
    with pytest.raises(ModelFolderError, match="999"):
        vision.check("vision", vision.inputs, [wrong_size])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("files"), "files"),
        (lambda m: m.update(format_version=1), "format version 1"),
        (lambda m: m.update(format_version="1" * 9999), r"format version '1{59}, but"),
        (lambda m: m.update(more=1), "more"),
        (lambda m: m["precision"].update(vision="fp8"), "precision.vision"),
        (lambda m: m["model"].pop("patch_size"), "model.patch_size"),
        (lambda m: m["model"].update(patch_size="14"), "model.patch_size"),
        (lambda m: m["files"].update({"../x": {"size": 1, "sha256": ""}}), r"\.\./x"),
        (lambda m: m["files"].pop("vision.onnx"), "vision.onnx"),
        (lambda m: m.update(attention="flash"), "attention"),
        (lambda m: m["files"].pop("decoder.onnx.data"), "decoder.onnx.data"),
        (lambda m: m["model"].update(num_layers=30_000_000), "model.num_layers"),
        (lambda m: m["model"].update(patch_size=0), "model.patch_size"),
        (lambda m: m["model"].update(num_key_value_heads=10**400), "model.num_key_value_heads"),
        (lambda m: m["model"].update(image_token_id=-1), "model.image_token_id"),
        (lambda m: m["model"].update(image_token_id=262), "model.image_token_id"),
        (lambda m: m["files"]["vision.onnx"].pop("sha256"), "files.vision.onnx.sha256"),
    ],
)  # fmt: skip
def test_damaged_manifest_names_the_key(change, message, exported):
    content = json.loads((exported("plain") / MANIFEST).read_text())
    assert Manifest.from_dict(content).to_dict() == content
    change(content)
    with pytest.raises(ModelFolderError, match=message):
        Manifest.from_dict(content)


def test_manifest_that_is_no_object():
    for content in ([], None, "text", {}):
        with pytest.raises(ModelFolderError, match="format version"):
            Manifest.from_dict(content)
