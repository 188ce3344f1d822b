"""Checkpoints quantised by AWQ keep their integers."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from idefics2_onnx.export import Quantisation, export_model
from idefics2_onnx.export.packing import Groups
from safetensors.torch import load_file, save_file


def dequantised(folder, graph, stem, size):
    """A matrix of MatMulNBits with zeros, as integers, scales and zeros [outputs, groups, …]."""
    model = onnx.load(folder / f"{graph}.onnx")
    parts = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    data, scales, zeros = (parts[f"{stem}.{part}"] for part in ("quantised", "scales", "zeros"))
    integers = np.stack([data & 15, data >> 4], -1).reshape(*data.shape[:2], size)
    return integers, scales, np.stack([zeros & 15, zeros >> 4], -1).reshape(len(zeros), -1)[:, : scales.shape[1]]


def awq_checkpoint(source, folder, group=32, left="nothing", part=None):
    """The checkpoint with its text model quantised in AWQ's GEMM layout, but for what is left; and each matrix's integers."""
    folder.mkdir()
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    tensors, kept = load_file(source / "model.safetensors"), {}
    for name in [n for n in tensors if "text_model.layers" in n and tensors[n].ndim == 2 and left not in n]:
        matrix, stem = tensors.pop(name).float(), name.removesuffix(".weight")
        outputs, inputs = matrix.shape
        integers, scales, zeros = Groups(4, group, False, torch.float16).round(matrix.view(outputs, inputs // group, group))
        kept[stem] = integers.numpy(), scales.numpy(), zeros.numpy()
        tensors[f"{stem}.qweight"] = gemm(integers.flatten(1).T)
        tensors[f"{stem}.qzeros"] = gemm(zeros.T)
        tensors[f"{stem}.scales"] = scales.T.contiguous()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (config[part] if part else config)["quantization_config"] = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": group,
        "version": "gemm",
        "zero_point": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return kept


def gemm(numbers):
    """uint8 [rows, columns] → int32 [rows, columns / 8], in AWQ's order."""
    eights = numbers.reshape(len(numbers), -1, 8).long()
    packed = sum(eights[..., column] << (4 * place) for place, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7)))
    return torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32).contiguous()


@pytest.mark.parametrize(("left", "matrices"), [("nothing", 14), ("down_proj", 12), ("o_proj", 12)])
@pytest.mark.usefixtures("compared_here")
def test_awq_checkpoints_keep_their_integers(checkpoint, tmp_path, left, matrices):
    """Also those that come before a matrix that AWQ left alone, and that smoothing would change."""
    kept = awq_checkpoint(checkpoint("plain"), tmp_path / "awq", left=left)
    folder = export_model(tmp_path / "awq", tmp_path / "int4", "int4", verify="always").folder
    assert len(kept) == matrices
    for stem, (integers, scales, zeros) in kept.items():
        found = dequantised(folder, "decoder", stem.removeprefix("model."), 32)
        assert np.array_equal(found[0], integers)
        assert np.array_equal(found[1], scales.astype(np.float32))
        assert np.array_equal(found[2], zeros)


@pytest.mark.parametrize(("left", "kept_joined"), [("nothing", True), ("k_proj", False)])
@pytest.mark.usefixtures("compared_here")
def test_awq_integers_are_kept_in_one_product_for_gpus(checkpoint, tmp_path, left, kept_joined):
    """Unless AWQ left one of the three alone: then all three are rounded."""
    kept = awq_checkpoint(checkpoint("plain"), tmp_path / "awq", left=left)
    folder = export_model(tmp_path / "awq", tmp_path / "int4", Quantisation("int4", "cuda"), verify="always").folder
    attention = "model.text_model.layers.1.self_attn"
    if not kept_joined:
        names = {i.name for i in onnx.load(folder / "decoder.onnx", load_external_data=False).graph.initializer}
        assert f"{attention.removeprefix('model.')}.qkv_proj.quantised" in names
        assert f"{attention.removeprefix('model.')}.qkv_proj.zeros" not in names
        return
    found = dequantised(folder, "decoder", f"{attention.removeprefix('model.')}.qkv_proj", 32)
    for index in range(3):
        expected = np.concatenate([kept[f"{attention}.{letter}_proj"][index] for letter in "qkv"])
        assert np.array_equal(found[index], expected.astype(found[index].dtype))


@pytest.mark.parametrize("part", [None, "text_config"])  # the reference reads both
@pytest.mark.usefixtures("compared_here")
def test_awq_checkpoints_in_floats_are_the_integers_times_their_scales(checkpoint, tmp_path, part):
    kept = awq_checkpoint(checkpoint("plain"), tmp_path / "awq", part=part)
    export_model(tmp_path / "awq", tmp_path / "joined", "fp32", verify="always")
    folder = export_model(tmp_path / "awq", tmp_path / "fp32", "fp32", attention="standard", verify="always").folder
    parts = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(folder / "decoder.onnx").graph.initializer}
    for stem, (integers, scales, zeros) in kept.items():
        expected = (integers.astype(np.float32) - zeros[..., None]) * scales[..., None].astype(np.float32)
        found = parts[f"{stem.removeprefix('model.')}.weight.T"].T
        assert np.array_equal(found, expected.reshape(found.shape).astype(np.float16).astype(np.float32))
