"""TensorRT: profiles and engines, on a GPU that is made up."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from idefics2_onnx.runtime.devices import tensorrt
from idefics2_onnx.runtime.devices.device import CPU, CUDA, TENSORRT
from idefics2_onnx.runtime.errors import ProviderError
from idefics2_onnx.runtime.folder import ModelFolder
from idefics2_onnx.runtime.model import Idefics2


def test_tensorrt_takes_the_images_only(gpu, exported, capsys):
    folder = exported("window", "fp16", "standard")
    ours = Idefics2.from_pretrained(folder, "tensorrt")
    assert [name for name, _ in gpu.opened["vision"]] == [TENSORRT, CUDA, CPU]
    assert [name for name, _ in gpu.opened["decoder"]] == [CUDA, CPU]
    assert "TensorRT builds engines for vision.onnx, which takes minutes" in capsys.readouterr().err
    options = gpu.opened["vision"][0][1]
    sizes = ours.engine.sizes
    side = sizes.patch_size * sizes.positions_per_side
    assert options["trt_profile_max_shapes"] == f"pixel_values:4x3x{side}x{side}"
    assert options["trt_profile_min_shapes"] == f"pixel_values:1x3x{sizes.patch_size}x{sizes.patch_size}"
    assert not {"trt_fp16_enable", "trt_bf16_enable"} & options.keys()  # the graph has types of its own
    assert len(ours.engine._groups([np.zeros((3, 28, 28))] * 9, range(9))) == 3  # no more than the engine takes
    engines = ModelFolder.open(folder).manifest
    (tensorrt.engine_folder("vision", engines) / "some.engine").touch()
    Idefics2.from_pretrained(folder, "tensorrt")
    assert not capsys.readouterr().err
    Idefics2.from_pretrained(exported("plain"), "tensorrt")
    assert "trt_profile_min_shapes" not in gpu.opened["vision"][0][1]  # TensorRT would want every piece's inputs named


@pytest.mark.parametrize("graph", ["vision", "embedding", "decoder"])
def test_tensorrts_profiles_name_every_input(graph, exported):
    manifest = ModelFolder.open(exported("window", "fp16", "standard")).manifest
    profile = tensorrt.profile(graph, manifest)
    names = {which: dict(one.split(":") for one in shapes.split(",")) for which, shapes in profile.items()}
    session = ort.InferenceSession(exported("window", "fp16", "standard") / f"{graph}.onnx", providers=[CPU])
    for shapes in names.values():
        assert shapes.keys() == {tensor.name for tensor in session.get_inputs()}
    for tensor in session.get_inputs():
        least, usual, most = (
            [int(n) for n in names[f"trt_profile_{which}_shapes"][tensor.name].split("x")] for which in ("min", "opt", "max")
        )
        assert len(least) == len(tensor.shape)
        assert all(a <= b <= c for a, b, c in zip(least, usual, most, strict=True))
        assert all(a == c == axis for a, c, axis in zip(least, most, tensor.shape, strict=True) if isinstance(axis, int))


def test_engines_that_cannot_be_kept(gpu, exported, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ProviderError, match="engines cannot be kept in .* Set XDG_CACHE_HOME"):
        Idefics2.from_pretrained(exported("plain"), "tensorrt")
    Idefics2.from_pretrained(exported("plain"), providers=[TENSORRT, CUDA, CPU])  # whose options are the caller's
    assert not capsys.readouterr().err
