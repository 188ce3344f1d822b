"""The exporter: what it writes, and where it refuses to."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from checkpoint_edits import edit_json, refused
from idefics2_onnx.export import Listener, export_model
from idefics2_onnx.export.errors import CheckpointError
from idefics2_onnx.export.source.checkpoint import Checkpoint
from idefics2_onnx.graphs.contract import MANIFEST, Manifest, data_file
from idefics2_onnx.graphs.idefics2.vision import SHRINK
from idefics2_onnx.runtime.folder import MODEL_CARD
from idefics2_onnx.runtime.model import Idefics2
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer


def test_manifest_describes_every_file(exported, checkpoint):
    folder = exported("window", "fp16")
    manifest = Manifest.from_dict(json.loads((folder / MANIFEST).read_text()))
    assert {path.name for path in folder.iterdir()} == {*manifest.files, MANIFEST, MODEL_CARD}
    for name, entry in manifest.files.items():
        content = (folder / name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry.size, entry.sha256)
    assert {"torch", "transformers", "onnx-ir", "idefics2-onnx"} <= set(manifest.tools)
    assert manifest.model.sliding_window == 7
    stored = Checkpoint.open(checkpoint("window")).tensors  # tied: one table for embeddings and head
    assert manifest.model.num_parameters == sum(np.prod(tensor.shape) for tensor in stored.values())


@pytest.mark.parametrize("name", ["window", "window_in_bf16"])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_weights_are_the_checkpoints_cast_and_transposed(name, precision, exported, checkpoint):
    stored = Checkpoint.open(checkpoint(name))
    folder = exported(name, precision)
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    model = onnx.load(folder / "decoder.onnx", load_external_data=False)
    found = {i.name: i for i in model.graph.initializer}
    data = (folder / data_file("decoder")).read_bytes()
    layers, table = "model.text_model.layers", stored.read_all("model.text_model.embed_tokens.weight")
    assert len(table) == 300
    for initializer, expected in (
        ("text_model.layers.1.mlp.down_proj.weight.T", stored.read_all(f"{layers}.1.mlp.down_proj.weight")),
        ("text_model.layers.0.input_layernorm.weight", stored.read_all(f"{layers}.0.input_layernorm.weight")),
        (
            "text_model.layers.1.self_attn.qkv_proj.weight.T",
            torch.cat([stored.read_all(f"{layers}.1.self_attn.{letter}_proj.weight") for letter in "qkv"]),
        ),
        ("lm_head.padded.weight.T", torch.nn.functional.pad(table, (0, 0, 0, 320 - 300))),  # tied
    ):
        place = {e.key: e.value for e in found[initializer].external_data}
        offset, length = int(place["offset"]), int(place["length"])
        expected = expected.to(dtype)
        expected = expected.T.contiguous() if initializer.endswith(".T") else expected
        assert tuple(found[initializer].dims) == tuple(expected.shape)
        assert data[offset : offset + length] == expected.view(torch.uint8).numpy().tobytes()


def test_fp16_connector_sums_and_normalises_in_fp32(exported):
    model = onnx.load(exported("plain", "fp16") / "vision.onnx", load_external_data=False)
    assert {initializer.data_type for initializer in model.graph.initializer} <= {
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.INT64,
        onnx.TensorProto.INT32,  # the table of positions
    }
    readers = {name: node for node in model.graph.node for name in node.input}
    connector = [i.name for i in model.graph.initializer if i.name.startswith("connector.")]
    assert connector
    for name in connector:
        assert readers[name].op_type == ("MatMul" if "_proj." in name else "Cast"), name
    widened = {
        node.output[0] for node in model.graph.node if node.op_type == "Cast" and node.attribute[0].i == onnx.TensorProto.FLOAT
    }
    for node in model.graph.node:
        if node.op_type == "SimplifiedLayerNormalization":
            assert set(node.input) & widened, node.name


@pytest.mark.usefixtures("compared_here")
def test_fp16_connector_holds_what_overflows_half_precision(copy, tmp_path):
    """Wide middles and sums past 65,504, in the projection and in the perceiver, are as exact as small ones."""
    tensors = load_file(copy / "model.safetensors")
    for part, factor in (("modality_projection", 250), ("perceiver_resampler.layers.0.mlp", 80)):
        for which in ("gate", "up"):
            tensors[f"model.connector.{part}.{which}_proj.weight"] *= factor
    save_file(tensors, copy / "model.safetensors")
    pixels = np.random.default_rng(0).normal(size=(1, 3, 28, 42)).astype(np.float32)
    middles = []
    for precision in ("fp32", "fp16"):
        export_model(copy, tmp_path / precision, precision)
        graph = onnx.load(tmp_path / precision / "vision.onnx")
        at = "connector.modality_projection.blocks.0.down_proj.weight.T"
        (down,) = (node for node in graph.graph.node if at in node.input)
        graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(down.input[0]))
        onnx.save(graph, tmp_path / "with_middle.onnx")
        session = ort.InferenceSession(tmp_path / "with_middle.onnx", providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        features, middle = session.run(None, {given.name: pixels.astype(np.float16 if "16" in given.type else np.float32)})
        middles.append((features.astype(np.float32), middle.astype(np.float32)))
    (expected, wide), (found, small) = middles
    assert np.abs(wide).max() > np.finfo(np.float16).max
    assert np.linalg.norm(small / SHRINK - wide) < 5e-3 * np.linalg.norm(wide)
    assert np.linalg.norm(found - expected) < 5e-3 * np.linalg.norm(expected)


def test_fused_attention_is_refused_where_it_cannot(checkpoint, tmp_path):
    refused(checkpoint("odd_heads"), tmp_path / "out", "multiple of 16, and this model's is 24", attention="fused")


@pytest.mark.usefixtures("compared_here")
def test_standard_attention_is_chosen_with_a_line(checkpoint, tmp_path):
    class Lines(Listener):
        said: list[str] = []  # noqa: RUF012

        def say(self, line: str) -> None:
            self.said.append(line)

    report = export_model(checkpoint("odd_heads"), tmp_path / "out", "fp32", listener=Lines())
    assert report.manifest.attention == "standard"
    assert "head_dim 24" in Lines.said[0]
    assert [line.split()[0] for line in Lines.said[1:]] == ["vision.onnx", "embedding.onnx", "decoder.onnx", "equal"]


def test_output_folder_that_is_in_use(checkpoint, tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("keep")
    with pytest.raises(CheckpointError, match="already exists"):
        export_model(checkpoint("plain"), target, verify="never")
    assert (target / "mine.txt").read_text() == "keep"
    (target / "mine.txt").unlink()
    assert export_model(checkpoint("plain"), target, verify="never").folder == target


def test_disk_that_is_too_small(checkpoint, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    refused(checkpoint("plain"), tmp_path / "out", "needs 0.1 GB, but .* has 0.0 GB free")


def test_folders_that_cannot_be_made(checkpoint, tmp_path, monkeypatch):
    source = checkpoint("plain").resolve()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for target, match in ((".", "cannot be replaced"), ("x" * 300, "File name too long"), ("/proc/x", "needs|cannot be written")):
        with pytest.raises(CheckpointError, match=match):
            export_model(source, target, verify="never")
    with pytest.raises(CheckpointError, match="neither a folder nor a hub id"):
        export_model("y" * 300)
    edit_json(Path(shutil.copytree(source, tmp_path / "other")) / "processor_config.json", image_seq_len=3)
    with pytest.raises(CheckpointError):
        export_model(tmp_path / "other", "a/b/c", verify="never")
    assert not list((tmp_path / "here").iterdir())


def test_tokenizer_defaults_are_written_down(copy, tmp_path):
    """A config without padding_side is the reference's right, and a pad token may stand in an older file only."""
    config = json.loads((copy / "tokenizer_config.json").read_text())
    del config["padding_side"], config["pad_token"]
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    (copy / "special_tokens_map.json").write_text('{"pad_token": "</s>"}')
    export_model(copy, tmp_path / "out", "fp32", verify="never")
    processor = Idefics2.from_pretrained(tmp_path / "out").processor
    tokenizer = AutoTokenizer.from_pretrained(copy)
    assert (processor.padding_side, processor.pad_token_id) == (tokenizer.padding_side, tokenizer.pad_token_id)
