"""What runs where, as ONNX Runtime tells it."""

from __future__ import annotations

import pytest
from idefics2_onnx.runtime.devices import sessions
from idefics2_onnx.runtime.devices.device import CPU, CUDA
from idefics2_onnx.runtime.devices.sessions import open_sessions
from idefics2_onnx.runtime.errors import ProviderError
from idefics2_onnx.runtime.folder import ModelFolder
from idefics2_onnx.runtime.model import Idefics2


def test_a_provider_that_takes_nothing_of_a_graph_is_an_error(gpu, exported):
    gpu.nodes["vision"] = {CUDA: 90, CPU: 4}
    with pytest.raises(
        ProviderError, match=r"TensorrtExecutionProvider takes none of vision.onnx's nodes \(90 on CUDA.*, 4 on CPU.*standard"
    ):
        open_sessions(ModelFolder.open(exported("window", "fp32", "standard")), "tensorrt")
    gpu.nodes["vision"] = {CPU: 94}
    with pytest.raises(ProviderError, match="CUDAExecutionProvider takes none of vision.onnx's nodes"):
        open_sessions(ModelFolder.open(exported("plain")), "cuda")


def test_layers_that_the_cpu_would_run_are_an_error(gpu, exported, monkeypatch):
    monkeypatch.setattr(sessions, "instructions", lambda: ["AVX512-VNNI"])
    gpu.nodes["decoder"], gpu.operators[CPU] = {CUDA: 90, CPU: 2}, "GroupQueryAttention"
    expected = (
        r"no kernels for 2 GroupQueryAttention in decoder.onnx \(fp32\).*with --fp16 or --bf16, or with --attention standard"
    )
    with pytest.raises(ProviderError, match=expected):
        Idefics2.from_pretrained(exported("plain"), "cuda")
    with pytest.raises(ProviderError, match="with --int4 --for cuda, or with --fp16, or choose"):
        Idefics2.from_pretrained(exported("plain", "int8"), "cuda")
    assert Idefics2.from_pretrained(exported("plain"), "auto").providers == [CPU]
