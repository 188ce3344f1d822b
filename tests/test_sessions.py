"""Execution providers: what was asked for runs, or the error says why not."""

from __future__ import annotations

import onnxruntime as ort
import pytest
from idefics2_onnx import Idefics2, ProviderError
from idefics2_onnx.runtime.folder import ModelFolder
from idefics2_onnx.runtime.sessions import CPU, CUDA, TENSORRT, open_sessions


def test_cpu_and_auto_run_here():
    assert Idefics2.from_pretrained(device="cpu").providers == [CPU]
    assert Idefics2.from_pretrained(providers=[CPU]).providers == [CPU]
    assert Idefics2.from_pretrained(providers=[(CPU, {"arena_extend_strategy": "kSameAsRequested"})]).providers == [CPU]


@pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="this machine has CUDA")
@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_device_that_is_missing(device):
    with pytest.raises(ProviderError, match=f"has no {'CUDA' if device == 'cuda' else 'Tensorrt'}.*Install onnxruntime-gpu"):
        Idefics2.from_pretrained(device=device)


def test_names_that_do_not_exist():
    with pytest.raises(ProviderError, match="no device 'gpu'"):
        Idefics2.from_pretrained(device="gpu")
    with pytest.raises(ProviderError, match="no MadeUpProvider"):
        Idefics2.from_pretrained(providers=["MadeUpProvider"])


@pytest.fixture
def dropping(monkeypatch):
    """An ONNX Runtime that offers CUDA and TensorRT and silently opens everything on the CPU, as it does without their libraries."""
    real = ort.InferenceSession
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(ort, "preload_dlls", lambda *_: None, raising=False)
    monkeypatch.setattr(ort, "InferenceSession", lambda path, options=None, providers=(): real(path, options, providers=[CPU]))


def test_a_dropped_provider_is_an_error(dropping):
    with pytest.raises(ProviderError, match="dropped CUDAExecutionProvider.*vision.onnx on CPUExecutionProvider"):
        Idefics2.from_pretrained(device="cuda")
    with pytest.raises(ProviderError, match="dropped TensorrtExecutionProvider, CUDAExecutionProvider"):
        Idefics2.from_pretrained(device="tensorrt")


def test_auto_takes_the_cpu_where_cuda_is_dropped(dropping):
    assert Idefics2.from_pretrained().providers == [CPU]


def test_bf16_runs_on_cuda_only(exported):
    folder = exported("window", "bf16")
    for device in ("cpu", "auto"):
        with pytest.raises(ProviderError, match="bf16, which ONNX Runtime runs on CUDA only"):
            open_sessions(ModelFolder.open(folder), device)


def test_session_options_are_passed_on():
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_profiling = False
    model = Idefics2.from_pretrained(session_options=options)
    assert model.engine.sessions.decoder.get_session_options().intra_op_num_threads == 1
