"""The doctor: what it says of this machine, and of others that are made up."""

from __future__ import annotations

import importlib.metadata
import json

import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from idefics2_onnx.cli import main
from idefics2_onnx.runtime.commands import examination as doctor
from idefics2_onnx.runtime.devices import libraries
from idefics2_onnx.runtime.devices.device import CPU, CUDA
from idefics2_onnx.runtime.devices.machine import Gpu, Machine
from idefics2_onnx.runtime.errors import ProviderError
from idefics2_onnx.runtime.outside.requirement import Requirement

GPU = Gpu("NVIDIA H200", "580.1", 150 << 30, 140 << 30)
AMX = Machine("Linux x86_64", "Some Xeon", 2, 25_000_000_000, 20_000_000_000, ["AMX", "AVX2"])


def examine(monkeypatch, machine, *arguments, available=(CPU,)):
    monkeypatch.setattr(Machine, "here", classmethod(lambda cls: machine))
    monkeypatch.setattr(ort, "get_available_providers", lambda: list(available))
    return doctor.examine(*arguments)


def lines_of(examination, topic):
    return [finding.text for finding in examination.findings if finding.topic == topic]


def test_this_machine():
    result = CliRunner().invoke(main, ["doctor"], catch_exceptions=False)
    assert result.exit_code == 0, result.stdout
    assert f"ONNX Runtime {ort.__version__}" in result.stdout
    assert "runs the small model" in result.stdout
    here = Machine.here()
    assert here.cores >= 1
    assert here.memory is None or here.memory > 1 << 28


def test_a_folder_and_a_device():
    result = CliRunner().invoke(main, ["doctor", "demo/model", "--device", "cpu", "--json"], catch_exceptions=False)
    found = {f["topic"]: f for f in json.loads(result.stdout)["findings"]}
    assert found["decoder.onnx"]["text"].endswith(f"nodes on {CPU}")
    assert found["folder"]["status"] == "ok"


def test_what_was_asked_for_and_does_not_work_is_wrong():
    result = CliRunner().invoke(main, ["doctor", "--device", "cuda"], catch_exceptions=False)
    assert result.exit_code == 1
    assert "! device" in result.stdout
    assert "pip install 'onnxruntime-gpu" in result.stdout
    result = CliRunner().invoke(main, ["doctor", "/no/such/folder"], catch_exceptions=False)
    assert result.exit_code == 1
    assert "! folder" in result.stdout


def test_two_onnx_runtimes_over_each_other(monkeypatch):
    versions = {"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.0"}
    real = importlib.metadata.version

    def version(name):
        if name.startswith("onnxruntime"):
            if name not in versions:
                raise importlib.metadata.PackageNotFoundError(name)
            return versions[name]
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    examination = examine(monkeypatch, AMX)
    (text,) = lines_of(examination, "packages")
    assert "pip uninstall -y onnxruntime onnxruntime-gpu, then: pip install onnxruntime-gpu" in text
    assert not examination.healthy


def test_a_gpu_without_cuda_in_onnx_runtime(monkeypatch):
    examination = examine(monkeypatch, Machine("Linux x86_64", "", 8, 10**11, None, [], [GPU]))
    assert lines_of(examination, "cuda:0") == ["NVIDIA H200, 161.1 GB, 150.3 GB free, driver 580.1"]
    assert "onnxruntime-gpu[cuda,cudnn]" in lines_of(examination, "cuda")[0]
    assert lines_of(examination, "advice") == ["For the 8B model here, the GPU holds fp16: idefics2-onnx export --fp16"]


def test_libraries_that_are_missing(monkeypatch):
    monkeypatch.setattr(libraries, "_loads", lambda name: "cudnn" not in name)
    monkeypatch.setattr(libraries.sys, "platform", "linux")
    monkeypatch.setattr(ort, "cuda_version", "13.0", raising=False)
    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)
    examination = examine(monkeypatch, Machine("Linux", "", 8, 10**11, None, [], [GPU]), available=(CUDA, CPU))
    (text,) = lines_of(examination, "cuda")
    assert text == "libcudnn.so.9 cannot be loaded. Run: pip install 'onnxruntime-gpu[cuda,cudnn]'"
    assert not examination.healthy


def test_numbers_that_are_wrong(monkeypatch):
    real = doctor._numbers
    monkeypatch.setattr(libraries, "_loads", lambda name: True)
    monkeypatch.setattr(doctor, "_numbers", lambda folder, device: real(folder, "cpu") * (1 if device == "cpu" else 1.1))
    examination = examine(monkeypatch, Machine("Linux", "", 8, 10**11, None, [], [GPU]), available=(CUDA, CPU))
    (text,) = lines_of(examination, "cuda")
    assert "10.00 % from the CPU's numbers" in text
    assert not examination.healthy


@pytest.mark.parametrize(
    ("memory", "instructions", "gpus", "expected"),
    [
        (25e9, ["AMX"], [], "--int4 --fast-prompts, and run it with --device openvino"),
        (25e9, ["AVX512-VNNI"], [], "idefics2-onnx export --int4 --fast-prompts"),
        (16e9, ["AVX512-VNNI"], [], "--int8"),
        (16e9, ["AVX512-BF16", "AVX512-VNNI"], [], "--int8, and run it with --device openvino"),
        (16e9, ["AVX2"], [], "--int4"),
        (8e9, ["AMX"], [], "--int4"),
        (4e9, ["AMX"], [], "too little memory"),
        (16e9, [], [Gpu("RTX", "1", 12 << 30, 11 << 30)], "--int4 --for cuda"),
    ],
)
def test_advice_by_memory_and_instructions(memory, instructions, gpus, expected, monkeypatch):
    monkeypatch.setattr(doctor, "_numbers", lambda *_: np.ones(3))  # the small model is run by other tests
    examination = examine(monkeypatch, Machine("Linux", "", 8, int(memory), None, instructions, gpus))
    (advice,) = lines_of(examination, "advice")
    assert expected in advice
    assert "pip install" not in advice  # of what is installed
    monkeypatch.setattr(doctor, "requirements", lambda extra="": [Requirement("openvino", ">=2026.4", None, False)])
    (advice,) = lines_of(examine(monkeypatch, Machine("Linux", "", 8, int(memory), None, instructions, gpus)), "advice")
    assert ("openvino]" in advice) == ("openvino" in expected)


def test_nothing_but_numbers_comes_out_of_the_small_model():
    from idefics2_onnx.runtime.folder import ModelFolder

    assert np.isfinite(doctor._numbers(ModelFolder.open(None), "cpu")).all()


def test_the_doctor_tells_what_runs_where(gpu, exported, monkeypatch):
    monkeypatch.setattr(ort, "cuda_version", "13.0", raising=False)
    monkeypatch.setattr(doctor, "library_versions", lambda: {"CUDA": "13.0", "cuDNN": "9.10.2"})
    gpu.nodes["decoder"] = {CUDA: 40, CPU: 2}
    done = CliRunner().invoke(main, ["doctor", str(exported("plain")), "--device", "cuda", "--json"], catch_exceptions=False)
    found = [(finding["topic"], finding["status"], finding["text"]) for finding in json.loads(done.stdout)["findings"]]
    assert done.exit_code == 0
    driver, tensorrts = "a driver for CUDA not found (13 needed)", "TensorRT not found (10.15 needed)"
    assert ("versions", "ok", f"CUDA 13.0 (13 needed), {driver}, cuDNN 9.10.2 (9 needed), {tensorrts}") in found
    assert ("cuda", "ok", "runs the small model, 0.00 % from the CPU's numbers") in found
    assert ("tensorrt", "ok", "runs the small model, 0.00 % from the CPU's numbers") in found
    assert ("vision.onnx", "ok", "3 nodes on CUDAExecutionProvider") in found
    assert ("decoder.onnx", "note", "40 nodes on CUDAExecutionProvider, 2 nodes on CPUExecutionProvider") in found
    gpu.nodes["vision"] = {CPU: 90}
    done = CliRunner().invoke(main, ["doctor", str(exported("plain")), "--device", "cuda"], catch_exceptions=False)
    assert done.exit_code == 1
    assert "! device" in done.stdout


def test_a_gpu_that_fails_when_it_runs_is_wrong_where_it_was_asked_for(gpu, monkeypatch):
    real = doctor._numbers

    def numbers(folder, device):
        if device == "cuda":
            raise ProviderError("no kernel image is available")
        return real(folder, device)

    monkeypatch.setattr(doctor, "_numbers", numbers)
    assert doctor.examine().healthy
    found = doctor.examine(device="cuda:0")
    assert not found.healthy
    assert [(f.topic, f.text) for f in found.findings if f.status == "wrong"] == [
        ("cuda", "does not run: no kernel image is available")
    ]
