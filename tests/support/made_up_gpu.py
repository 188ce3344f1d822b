"""A GPU that is made up: the host's memory under another name, and ONNX Runtime's CPU kernels."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace

import onnxruntime as ort
import pytest
from idefics2_onnx.runtime.devices import libraries, providers
from idefics2_onnx.runtime.devices.device import CPU, CUDA, TENSORRT
from idefics2_onnx.runtime.memory import cuda_runtime
from made_up_cuda import MadeUpCuda
from onnxruntime.capi import onnxruntime_inference_collection as python_side


def made_up_gpu(monkeypatch: pytest.MonkeyPatch, cache_folder: Path) -> SimpleNamespace:
    """Give ONNX Runtime CUDA and TensorRT; the result remembers how sessions were opened and run, and makes them fail."""
    seen = SimpleNamespace(
        opened={}, configured={}, recordings=[], released=[], cuda=MadeUpCuda(), refuses="", nodes={}, operators={}
    )
    real, device_type = ort.InferenceSession, python_side.get_ort_device_type
    vendor = getattr(python_side, "get_vendor_id_for_device_type", None)  # since ONNX Runtime 1.26

    class Session(real):
        def __init__(self, path, options=None, providers=(), enable_fallback=True):
            assert not enable_fallback or all(p == CPU for p in providers)
            self.wanted = [p if isinstance(p, tuple) else (p, {}) for p in providers]
            self.graph = getattr(path, "stem", "argmax")
            seen.configured[self.graph] = options
            if seen.refuses and any("enable_cuda_graph" in options for _, options in self.wanted):
                raise RuntimeError(seen.refuses)
            seen.opened[self.graph] = self.wanted
            super().__init__(path, options, providers=[CPU])

        def get_providers(self):
            return [name for name, _ in self.wanted]

        def get_provider_options(self):
            return dict(self.wanted)

        def get_provider_graph_assignment_info(self):
            nodes = seen.nodes.get(self.graph, {self.wanted[0][0]: 3})
            parts = [(name, [SimpleNamespace(op_type=seen.operators.get(name, "Cast"))] * count) for name, count in nodes.items()]
            return [SimpleNamespace(ep_name=name, get_nodes=lambda nodes=nodes: nodes) for name, nodes in parts]

        def run_with_iobinding(self, binding, options=None):
            if self.graph == "decoder":
                seen.recordings.append(int(options.get_run_config_entry("gpu_graph_id")))
            super().run_with_iobinding(binding, options)

        def release_captured_graph(self, number=0):
            seen.released.append(number)

    from_numpy, from_shape = ort.OrtValue.ortvalue_from_numpy, ort.OrtValue.ortvalue_from_shape_and_type

    def copied(array, device="cpu", number=0):
        if device == "cpu":
            return from_numpy(array)
        value = from_shape(array.shape, array.dtype.type)
        ctypes.memmove(value.data_ptr(), array.ctypes.data, array.nbytes)
        return value

    monkeypatch.setattr(ort.OrtValue, "ortvalue_from_numpy", copied)
    monkeypatch.setattr(python_side, "get_ort_device_type", lambda name: device_type("cpu" if name == "cuda" else name))
    if vendor is not None:
        monkeypatch.setattr(python_side, "get_vendor_id_for_device_type", lambda name: None if name == "cuda" else vendor(name))
    monkeypatch.setattr(cuda_runtime, "_library", lambda: seen.cuda)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(ort, "InferenceSession", Session)
    monkeypatch.setattr(libraries, "_loads", lambda name: True)
    monkeypatch.setattr(libraries, "library_versions", dict)
    monkeypatch.setattr(providers, "gpu_count", lambda: None)
    monkeypatch.setattr(libraries.sys, "platform", "linux")
    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_folder))
    return seen
