"""Versions of CUDA's libraries: read, and compared with those that ONNX Runtime needs."""

from __future__ import annotations

from types import SimpleNamespace

import onnxruntime as ort
import pytest
from idefics2_onnx.runtime.devices import libraries
from idefics2_onnx.runtime.devices.device import CPU, CUDA, TENSORRT
from idefics2_onnx.runtime.errors import ProviderError
from idefics2_onnx.runtime.model import Idefics2


def test_versions_that_are_too_low(gpu, monkeypatch):
    here = {"a driver for CUDA": "12.8", "TensorRT": "10.9.0"}
    monkeypatch.setattr(libraries, "library_versions", lambda: here)
    monkeypatch.setattr(ort, "cuda_version", "13.0", raising=False)
    with pytest.raises(
        ProviderError, match=r"driver is for CUDA 12.8, and this ONNX Runtime needs CUDA 13. Update the driver, or"
    ):
        Idefics2.from_pretrained(device="cuda")
    here["a driver for CUDA"] = "13.1"
    with pytest.raises(
        ProviderError, match=r"TensorRT is 10.9.0, and 10.15 is needed. Run: pip install 'tensorrt-cu13>=10.15,<11'"
    ):
        Idefics2.from_pretrained(providers=[TENSORRT, CUDA, CPU])
    here["TensorRT"] = "10.15.1"
    Idefics2.from_pretrained(providers=[TENSORRT, CUDA, CPU])


def test_versions_of_libraries(monkeypatch):
    def asked(number):
        def ask(place_of_it):
            place_of_it._obj.value = number

        return ask

    here = {
        "libcudart.so.13": SimpleNamespace(cudaRuntimeGetVersion=asked(13000), cudaDriverGetVersion=asked(13010)),
        "libcudnn.so.9": SimpleNamespace(cudnnGetVersion=lambda: 91002),
    }

    def load(name):
        if name not in here:
            raise OSError(name)
        return here[name]

    monkeypatch.setattr(libraries.ctypes, "CDLL", load)
    monkeypatch.setattr(ort, "cuda_version", "13.0", raising=False)
    assert libraries.library_versions() == {"CUDA": "13.0", "a driver for CUDA": "13.1", "cuDNN": "9.10.2"}


def test_nvidias_wheels_are_loaded_first_on_every_system(monkeypatch):
    loaded = []
    monkeypatch.setattr(ort, "preload_dlls", lambda: loaded.append(libraries.sys.platform), raising=False)
    for system in ("win32", "linux"):
        monkeypatch.setattr(libraries.sys, "platform", system)
        missing = libraries.missing_libraries("CUDAExecutionProvider")
        assert system == "linux" or missing == []
    assert loaded == ["win32", "linux"]
