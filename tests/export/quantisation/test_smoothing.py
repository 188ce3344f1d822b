"""Smoothing: it computes the same, it helps where channels are loud, and what it measures can be chosen."""

from __future__ import annotations

import pytest
import torch
from idefics2_onnx.export import Quantisation, agreement, export_model, open_layered
from idefics2_onnx.export.errors import CheckpointError
from idefics2_onnx.export.listener import Listener
from idefics2_onnx.export.quantisation.calibration import PROMPTS, CalibrationSet
from idefics2_onnx.export.quantisation.smoothing import Scaled, smoothed, smoothing_factors
from idefics2_onnx.export.source.source_model import SourceModel
from idefics2_onnx.export.verification.agreement import LayeredCheckpoint
from idefics2_onnx.export.verification.layers import compare_layers
from parity import photos
from safetensors.torch import load_file, save_file


def shown(checkpoint, model, folder=None):
    return CalibrationSet.load(folder, checkpoint / "tokenizer.json", model.sizes)


@torch.no_grad()
def logits(model, pictures):
    layered = LayeredCheckpoint(model)
    ids, rows = pictures.sequence(model.family, model.sizes)
    return layered.logits(ids, layered.features(pictures.pixels), rows)


@pytest.fixture(scope="module")
def loud(checkpoint, tmp_path_factory):
    """A checkpoint some of whose channels are much louder than the rest."""
    folder = tmp_path_factory.mktemp("loud") / "checkpoint"
    folder.mkdir()
    source = checkpoint("bf16_checkpoint")
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(source / "model.safetensors")
    for name, tensor in tensors.items():
        if "text_model.embed_tokens" in name:
            tensor[:, [3, 40]] *= 30
        elif "perceiver_resampler.norm" in name:
            tensor[[3, 40]] *= 30
        elif "up_proj" in name and "text_model" in name:
            tensor[[5, 17]] *= 20
        elif "vision_model" in name and "layer_norm" in name:
            tensor[[7]] *= 20
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("name", ["plain", "window", "wide_heads", "odd_heads", "bf16_checkpoint", "fp16_checkpoint"])
def test_smoothed_models_compute_the_same(name, checkpoint):
    model = SourceModel.open(checkpoint(name))
    pictures = shown(checkpoint(name), model)
    plan = Quantisation("int8")
    same = smoothed(model, smoothing_factors(model, [plan], "fused", pictures, Listener())[plan])
    assert any(isinstance(stored, Scaled) for stored in same.checkpoint.tensors.values())
    expected = logits(model, pictures)
    assert (logits(same, pictures) - expected).abs().max() < 2e-5 * max(1, float(expected.std()))


def test_joined_projections_are_smoothed_as_their_parts(checkpoint):
    """They are made of a checkpoint's tensors, and another product reads the values."""
    model, plan = SourceModel.open(checkpoint("bf16_checkpoint")), Quantisation("int4", "cuda")
    same = smoothed(
        model, smoothing_factors(model, [plan], "fused", shown(checkpoint("bf16_checkpoint"), model), Listener())[plan]
    )
    attention = "model.text_model.layers.1.self_attn"
    parts = [same.stored(f"{attention}.{letter}_proj.weight") for letter in "qkv"]
    assert any(isinstance(part, Scaled) for part in parts)
    joined, plain = (each.stored(f"{attention}.qkv_proj.weight") for each in (same, model))
    found = joined.read(0, joined.shape[0])
    assert torch.equal(found, torch.cat([part.read(0, part.shape[0]) for part in parts]))
    assert not torch.equal(found, plain.read(0, plain.shape[0]).float())


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_smoothing_helps_where_channels_are_loud(precision, loud, tmp_path, monkeypatch):
    smooth = export_model(loud, tmp_path / "smooth", precision, verify="never").folder
    monkeypatch.setattr("idefics2_onnx.export.pipeline.smoothing_factors", lambda _, plans, *__: {plan: {} for plan in plans})
    rough = export_model(loud, tmp_path / "rough", precision, verify="never").folder
    precise = open_layered(loud)
    found, expected = agreement(smooth, precise), agreement(rough, precise)
    assert found.divergence < {"int8": 0.8, "int4": 1.0}[precision] * expected.divergence, (found, expected)
    assert found.positions == expected.positions > 200


def test_int8_is_not_worse_than_int4(loud, tmp_path):
    """As a whole and layer by layer."""
    precise, model = open_layered(loud), SourceModel.open(loud)
    found, errors = {}, {}
    for precision in ("int8", "int4"):
        report = export_model(loud, tmp_path / precision, precision, verify="never")
        found[precision] = agreement(report.folder, precise)
        differences = compare_layers(report.folder, report.manifest, model, unrounded=True)
        errors[precision] = {(d.graph, d.what): d.ours.relative for d in differences}
    assert found["int8"].divergence < found["int4"].divergence
    assert found["int8"].same >= found["int4"].same
    assert len(errors["int4"]) > 5
    assert all(errors["int8"][layer] <= 1.02 * error for layer, error in errors["int4"].items()), errors


def test_a_folder_against_itself_and_its_checkpoint(checkpoint, exported):
    folder = exported("plain")
    same = agreement(folder, open_layered(folder))
    assert (same.same, same.divergence) == (same.positions, 0)
    precise = agreement(folder, open_layered(checkpoint("plain")))
    assert precise.same == precise.positions
    assert precise.divergence < 1e-9


def test_pictures_and_prompts_of_a_folder(checkpoint, tmp_path):
    model = SourceModel.open(checkpoint("plain"))
    built_in = shown(checkpoint("plain"), model)
    photos()[0].save(tmp_path / "b.jpg")
    own = shown(checkpoint("plain"), model, tmp_path)
    assert own.pixels.shape == (1, 3, 98, 98)
    assert [p.tolist() for p in own.prompts] == [p.tolist() for p in built_in.prompts]
    (tmp_path / PROMPTS).write_text("One\n\nTwo\n")
    assert len(shown(checkpoint("plain"), model, tmp_path).prompts) == 2


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({}, "neither pictures nor prompts.txt"),
        ({PROMPTS: b" \n"}, "is empty"),
        ({"a.png": b"no picture"}, "a.png cannot be opened"),
    ],
)
def test_folders_that_cannot_be_calibrated_with(files, match, checkpoint, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=match):
        shown(checkpoint("plain"), SourceModel.open(checkpoint("plain")), tmp_path)


def test_two_decoders_over_one_cache_agree_about_values(checkpoint):
    """What one writes into the cache the other reads: nothing that goes there may be scaled for one of them."""
    model = SourceModel.open(checkpoint("plain"))
    pictures, both = shown(checkpoint("plain"), model), Quantisation("int4", fast_prompts=True)
    found = smoothing_factors(model, [both, both.of_prompts], "fused", pictures, Listener())
    for factors in found.values():
        scaled = [name for name, axes in factors.items() if "rows" in axes and "text_model" in name]
        assert scaled
        assert not [name for name in scaled if "v_proj" in name or "k_proj" in name]
    plan = Quantisation("int8")
    alone = smoothing_factors(model, [plan], "fused", pictures, Listener())[plan]
    assert any("rows" in found and "v_proj" in name and "text_model" in name for name, found in alone.items())


def test_two_quantisations_are_measured_at_once_as_alone(checkpoint):
    model = SourceModel.open(checkpoint("plain"))
    pictures, plans = shown(checkpoint("plain"), model), [Quantisation("int4"), Quantisation("int8")]
    together = smoothing_factors(model, plans, "fused", pictures, Listener())
    assert list(together) == plans
    for plan in plans:
        alone = smoothing_factors(model, [plan], "fused", pictures, Listener())[plan]
        assert alone.keys() == together[plan].keys()
        for name, axes in alone.items():
            assert axes.keys() == together[plan][name].keys()
            assert all(torch.equal(axes[axis], together[plan][name][axis]) for axis in axes)
