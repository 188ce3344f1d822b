"""What a machine is made of, on systems that are made up."""

from __future__ import annotations

import platform

import pytest
from idefics2_onnx.runtime.devices import machine, sessions
from idefics2_onnx.runtime.devices.gpu_options import GpuOptions
from idefics2_onnx.runtime.folder import ModelFolder


def test_numpy_tells_what_this_processor_can_do():
    """By a table of its own that is private: should NumPy move it, Windows' folders of integers become slow again."""
    features = machine._numpy_features()
    assert machine._OF_NUMPY.keys() <= features.keys()
    if platform.system() == "Linux":
        _, flags = machine._processor()
        assert {flag for feature, flag in machine._OF_NUMPY.items() if features[feature]} <= flags


@pytest.mark.parametrize("system", ["Windows", "Darwin", "FreeBSD"])
def test_elsewhere_numpy_is_asked(system, monkeypatch, exported):
    monkeypatch.setattr(platform, "system", lambda: system)
    for features, names in (
        ({"AVX2": True, "AVX512F": True, "AVX512VNNI": True}, ["AVX512-VNNI", "AVX-512", "AVX2"]),
        ({"ASIMD": True, "ASIMDDP": True}, ["DOTPROD", "NEON"]),
        ({"AVX2": True, "AVX512VNNI": False}, ["AVX2"]),
        ({}, []),
    ):
        monkeypatch.setattr(machine, "_numpy_features", lambda features=features: features)
        assert machine.instructions() == names
        entries = sessions._entries(ModelFolder.open(exported("plain", "int8")).manifest, ["CPUExecutionProvider"], GpuOptions())
        assert ("session.x64quantprecision" in entries) == (not machine.INT8_UNITS & set(names))


def test_a_numpy_that_has_moved_its_table(monkeypatch):
    monkeypatch.setattr(machine.importlib, "import_module", lambda name: object())
    assert machine._numpy_features() == {}
