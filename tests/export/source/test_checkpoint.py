"""Checkpoints that are refused, and how they are found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from checkpoint_edits import edit_json, refused
from idefics2_onnx.demo.random_model import write_checkpoint
from idefics2_onnx.export import export_model, pipeline
from idefics2_onnx.export.errors import CheckpointError
from idefics2_onnx.export.processor_files import write_processor_files
from idefics2_onnx.export.source.checkpoint import Checkpoint
from idefics2_onnx.export.source.source_model import SourceModel
from safetensors.torch import load_file, save_file
from small_models import SMALL_MODELS


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model_type": "idefics3"}, "'idefics3'"),
        ({"model_type": "llava"}, "'llava'"),
        ({"text_config__model_type": "llama"}, "'llama' text model"),
        ({"text_config__rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "'dynamic'"),
        ({"text_config__rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [1.0] * 8, "factor": 2.0, "original_max_position_embeddings": 64}}, "'longrope'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ({"vision_config__hidden_act": "wobble"}, "'wobble'"),
        ({"vision_config__num_channels": 4}, "4 channels"),
        ({"vision_config__patch_size": [14, 14]}, "patch_size"),
        ({"vision_config__num_attention_heads": 5}, "48 by 5"),
        ({"text_config__num_hidden_layers": 3}, r"lacks the tensor .*layers\.2.* and \d+ more"),
        ({"text_config__hidden_size": "wide"}, "hidden_size"),
        ({"text_config": []}, "has no tensor|lacks|text_config"),
        ({"vision_config": 5}, "vision_config 5"),
        ({"text_config__num_hidden_layers": 0}, "num_hidden_layers 0"),
        ({"text_config__max_position_embeddings": 10**12}, "max_position_embeddings 1000000000000"),
        ({"text_config__sliding_window": 0}, "sliding_window 0"),
        ({"text_config__intermediate_size": 100}, r"\[96, 48\].*\[100, 48\]"),
        ({"image_token_id": 99}, "99"),
        ({"vision_config__num_hidden_layers": 10**9}, "vision config has the num_hidden_layers 1000000000, not from 1 to 57, the number of"),
        ({"vision_config__num_hidden_layers": -1}, "num_hidden_layers -1"),
        ({"text_config__num_hidden_layers": 9_999}, "text config has the num_hidden_layers 9999, not from 1 to 57"),
        ({"perceiver_config__resampler_depth": 10**9}, "resampler_depth 1000000000"),
        ({"perceiver_config__resampler_depth": 0}, "resampler_depth 0"),
        ({"text_config__head_dim": 0}, "head_dim 0"),
        ({"text_config__vocab_size": 10**12}, "vocab_size 1000000000000"),
        ({"perceiver_config__resampler_head_dim": -4}, "resampler_head_dim -4"),
        ({"vision_config__intermediate_size": 1e30}, "intermediate_size"),
        ({"vision_config__image_size": 7}, "images of 7 pixels, but patches of 14"),
    ],
)  # fmt: skip
def test_configs_that_are_refused(changes, match, copy, tmp_path):
    edit_json(copy / "config.json", **changes)
    refused(copy, tmp_path / "out", match)


def test_checkpoint_files_that_are_refused(copy, tmp_path):
    target, weights = tmp_path / "out", copy / "model.safetensors"
    refused(tmp_path / "nowhere", target, "neither a folder nor a hub id")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1000])
    refused(copy, target, "incomplete")
    weights.write_bytes(whole[:100])
    refused(copy, target, "damaged or incomplete")
    weights.write_bytes((20).to_bytes(8, "little") + b"{" * 20 + whole)
    refused(copy, target, "damaged header")
    weights.unlink()
    refused(copy, target, "neither model.safetensors nor")
    (copy / "pytorch_model.bin").write_bytes(b"pickle")
    refused(copy, target, "pickles")
    (copy / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../secret.safetensors"}}')
    refused(copy, target, "not a safetensors file beside it")
    (copy / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    refused(copy, target, "lacks the weights file model-1.safetensors")
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "a" * 5000 + ".safetensors"}}))
    refused(copy, target, r"names the file 'a{90,}, which is not a safetensors file beside it")
    header = b'{"a": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 4]}}'
    weights.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    refused(copy, target, "damaged header .cannot convert float infinity to integer")
    (copy / "config.json").write_text("{")
    weights.write_bytes(whole)
    (copy / "model.safetensors.index.json").unlink()
    refused(copy, target, "not readable JSON")
    (copy / "config.json").unlink()
    refused(copy, target, "has no config.json")


def test_processor_files_that_are_refused(copy, tmp_path):
    target = tmp_path / "out"
    edit_json(copy / "processor_config.json", image_seq_len=64)
    refused(copy, target, "64 tokens, but its perceiver has 4 latents")
    edit_json(copy / "processor_config.json", image_seq_len=4)
    (copy / "preprocessor_config.json").rename(copy / "elsewhere.json")
    refused(copy, target, "no preprocessor_config.json")
    (copy / "elsewhere.json").rename(copy / "preprocessor_config.json")
    (copy / "tokenizer.json").unlink()
    refused(copy, target, "no tokenizer.json")


def test_missing_tensor_is_named(copy, tmp_path):
    tensors = load_file(copy / "model.safetensors")
    del tensors["model.connector.perceiver_resampler.latents"]
    save_file(tensors, copy / "model.safetensors")
    refused(copy, tmp_path / "out", r"lacks the tensor model\.connector\.perceiver_resampler\.latents\.")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_numbers_that_are_none_are_named(number, precision, copy, tmp_path):
    """Whatever they are packed into, and without a comparison."""
    tensors = load_file(copy / "model.safetensors")
    tensors["model.text_model.layers.1.mlp.up_proj.weight"][5, 3] = number
    save_file(tensors, copy / "model.safetensors")
    refused(
        copy,
        tmp_path / "out",
        r"tensor model\.text_model\.layers\.1\.mlp\.up_proj\.weight holds numbers that are not",
        precision=precision,
    )
    assert not (tmp_path / ".out.partial").exists()


def test_a_checkpoint_that_changes_while_it_is_read(copy, tmp_path, monkeypatch):
    """A folder of two checkpoints' weights looks like any other."""
    real = pipeline.write_graph

    def change(graph, *rest):
        if graph.name == "decoder":
            tensors = load_file(copy / "model.safetensors")
            save_file({name: tensor + 1 for name, tensor in tensors.items()}, copy / "model.safetensors")
        return real(graph, *rest)

    monkeypatch.setattr(pipeline, "write_graph", change)
    refused(copy, tmp_path / "out", "The files in .* changed while they were read. Export again")


@pytest.mark.usefixtures("compared_here")
def test_float64_weights_are_rounded_as_the_reference_does(copy, tmp_path):
    tensors = load_file(copy / "model.safetensors")
    random = torch.Generator().manual_seed(0)
    wide = {name: t.double() + 1e-6 * torch.randn(t.shape, generator=random, dtype=torch.float64) for name, t in tensors.items()}
    save_file(wide, copy / "model.safetensors", {"format": "pt"})
    folder = export_model(copy, tmp_path / "out", "fp32", verify="always").folder
    parts = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(folder / "embedding.onnx").graph.initializer}
    expected = wide["model.text_model.embed_tokens.weight"].float().numpy()
    assert any(part.shape == expected.shape and np.array_equal(part, expected) for part in parts.values())


@pytest.mark.usefixtures("compared_here")
def test_single_file_comes_before_a_stale_index(copy, tmp_path, checkpoint):
    """As in transformers: what an older, sharded save left behind is not read."""
    small = SMALL_MODELS["plain"]
    write_checkpoint(tmp_path / "sharded", small.config, image_options=small.image_options, shard_size="50KB", seed=1)
    for path in (tmp_path / "sharded").glob("model*"):
        shutil.copy(path, copy)
    export_model(copy, tmp_path / "out", "fp32", verify="always")
    assert (tmp_path / "out" / "decoder.onnx.data").read_bytes() != b""


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("preprocessor_config.json", "junk", "cannot read"),
        ("generation_config.json", "junk", "cannot read"),
        ("processor_config.json", "[]", "no JSON object"),
        ("tokenizer.json", "{}", "tokenizer cannot be read"),
        ("config.json", "[" * 100_000, "not readable JSON"),
    ],
)
def test_junk_beside_the_weights_is_refused(name, content, match, copy, tmp_path):
    (copy / name).write_text(content)
    refused(copy, tmp_path / "out", match)


def test_half_a_character_in_a_config_is_written_as_it_was(copy, tmp_path):
    edit_json(copy / "tokenizer_config.json", note="\ud800")
    write_processor_files(Checkpoint.open(copy), SMALL_MODELS["plain"].config, tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["note"] == "\ud800"


def test_a_config_s_values_are_not_repeated_whole(copy):
    edit_json(copy / "config.json", text_config__hidden_act=["x" * 99_999])
    with pytest.raises(CheckpointError) as caught:
        SourceModel.open(copy)
    assert len(str(caught.value)) < 1000


def test_hub_ids_are_downloaded(copy, tmp_path, monkeypatch):
    """The hub hands out a folder named after the commit; both names go into the manifest."""
    snapshot = copy.rename(copy.parent / "0a1b2c")
    asked = {}

    def download(repo_id, revision=None, allow_patterns=None):
        asked.update(repo_id=repo_id, revision=revision)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    report = export_model("owner/some-idefics2", precision="fp32", revision="main", verify="never")
    assert report.folder == Path("some-idefics2-fp32")
    assert (report.manifest.source, report.manifest.revision) == ("owner/some-idefics2", "0a1b2c")
    assert asked == {"repo_id": "owner/some-idefics2", "revision": "main"}


def test_hub_ids_that_cannot_be_had(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="could not be downloaded from the hub"):
        export_model("nobody/no-such-checkpoint", tmp_path / "out")


@pytest.mark.parametrize("name", ["model.safetensors", "preprocessor_config.json"])
def test_files_that_the_system_does_not_let_us_read(name, checkpoint, tmp_path, monkeypatch):
    opened = Path.open

    def locked(path, *arguments, **options):
        if path.name == name and path.parent == source:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    source = checkpoint("plain")
    monkeypatch.setattr(Path, "open", locked)
    with pytest.raises(CheckpointError, match=rf"{name} cannot be read \(Permission denied\)"):
        export_model(source, tmp_path / "out", verify="never")
    assert not (tmp_path / "out").exists()


def test_a_path_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("idefics2_onnx.export.source.checkpoint.download", None)
    with pytest.raises(CheckpointError, match="models/idefics2 is neither a folder nor a hub id"):
        Checkpoint.open(Path("models/idefics2"))
