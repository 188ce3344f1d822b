"""Execution providers: what was asked for runs, or the error says why not."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext

import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from idefics2_onnx.cli import main
from idefics2_onnx.runtime import parallel
from idefics2_onnx.runtime.devices import libraries, providers, sessions
from idefics2_onnx.runtime.devices.device import CPU, CUDA, TENSORRT, Device, gpu_of
from idefics2_onnx.runtime.devices.gpu_options import GpuOptions
from idefics2_onnx.runtime.devices.sessions import open_sessions
from idefics2_onnx.runtime.errors import ProviderError
from idefics2_onnx.runtime.folder import ModelFolder
from idefics2_onnx.runtime.model import Idefics2
from idefics2_onnx.runtime.parallel import is_work_left


def test_cpu_and_auto_run_here():
    assert Idefics2.from_pretrained(device="cpu").providers == [CPU]
    assert Idefics2.from_pretrained(providers=[CPU]).providers == [CPU]
    assert Idefics2.from_pretrained(providers=[(CPU, {"arena_extend_strategy": "kSameAsRequested"})]).providers == [CPU]


@pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="this machine has CUDA")
@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_device_that_is_missing(device):
    with pytest.raises(ProviderError, match=f"has no {'CUDA' if device == 'cuda' else 'Tensorrt'}.*pip install 'onnxruntime-gpu"):
        Idefics2.from_pretrained(device=device)


def test_names_that_do_not_exist():
    with pytest.raises(ProviderError, match="no device 'gpu'"):
        Idefics2.from_pretrained(device="gpu")
    with pytest.raises(ProviderError, match="no MadeUpProvider"):
        Idefics2.from_pretrained(providers=["MadeUpProvider"])


@pytest.mark.parametrize("value", [5, "CPUExecutionProvider", [], [5], np.ones(2), {"CPUExecutionProvider": {}}, len], ids=str)
@pytest.mark.parametrize("name", ["providers", "session_options", "gpu_options", "device", "spinning"])
def test_arguments_that_are_something_else(name, value):
    with pytest.raises(ProviderError, match="providers is|session_options is|gpu_options is|device|spinning is"):
        Idefics2.from_pretrained(**{name: value})


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:²", "cuda:9999", "cpu:1", "auto:0", ""])
def test_devices_that_do_not_exist(name):
    with pytest.raises(ProviderError, match="There is no device"):
        Device.parse(name)


def test_gpus_have_numbers():
    assert Device.parse("cuda") == Device.parse("cuda:0")
    assert Device.parse("cuda:3") == Device("cuda", 3)
    assert gpu_of([TENSORRT, (CUDA, {"device_id": 2}), CPU]) == 2
    assert gpu_of([CPU]) == 0


@pytest.fixture
def without_libraries(monkeypatch):
    """An ONNX Runtime for GPUs on a Linux machine without some of their libraries."""
    missing: set[str] = set()
    monkeypatch.setattr(libraries.sys, "platform", "linux")
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(ort, "preload_dlls", lambda *_: print("Failed to load"), raising=False)
    monkeypatch.setattr(ort, "cuda_version", "13.0", raising=False)
    monkeypatch.setattr(libraries, "_loads", lambda name: name not in missing)
    monkeypatch.setattr(libraries, "library_versions", dict)
    monkeypatch.setattr(providers, "gpu_count", lambda: None)
    return missing


def test_the_library_that_is_missing_is_named(without_libraries, capsys):
    without_libraries.add("libcublas.so.13")
    expected = r"libcublas.so.13 cannot be loaded .*CUDA 13\)\. Run: pip install 'onnxruntime-gpu\[cuda,cudnn\]', or choose"
    with pytest.raises(ProviderError, match=expected):
        Idefics2.from_pretrained(device="cuda:1")
    without_libraries.add("libcuda.so.1")
    with pytest.raises(ProviderError, match="Install NVIDIA's driver, and run: pip install 'onnx"):
        Idefics2.from_pretrained(providers=[CUDA])
    without_libraries.clear()
    without_libraries.add("libnvinfer.so.10")
    with pytest.raises(
        ProviderError, match="^TensorrtExecutionProvider cannot run here.*Run: pip install 'tensorrt-cu13>=10.15,<11', or"
    ):
        Idefics2.from_pretrained(device="tensorrt")
    assert capsys.readouterr().out == ""


def test_auto_says_what_it_chose_and_why(without_libraries, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    without_libraries.add("libcudnn.so.9")
    found = CliRunner().invoke(main, ["run", "Hi", "--max-new-tokens", "1"], catch_exceptions=False)
    assert f"Running on {CPU}. CUDAExecutionProvider cannot run here: libcudnn.so.9" in found.stderr
    asked = CliRunner().invoke(main, ["run", "Hi", "--device", "cuda"], catch_exceptions=False)
    assert asked.exit_code == 1
    assert asked.stdout == ""
    assert asked.stderr.strip().splitlines()[-1].startswith("Error: CUDAExecutionProvider cannot run here")
    wrong = CliRunner().invoke(main, ["run", "Hi", "--device", "gpu"])
    assert wrong.exit_code == 2
    assert "There is no device 'gpu'" in wrong.stderr


def test_packages_over_each_other_are_the_reason(monkeypatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    monkeypatch.setattr(libraries.importlib.metadata, "version", lambda name: "1.31.1")
    with pytest.raises(ProviderError, match="installed over each other. Run: pip uninstall -y onnxruntime onnxruntime-gpu"):
        Idefics2.from_pretrained(device="cuda")
    with pytest.raises(ProviderError, match="installed over each other.*, or choose --device cpu"):
        Idefics2.from_pretrained()
    assert Idefics2.from_pretrained(device="cpu").providers == [CPU]


def test_tensorrts_wheels_are_found(without_libraries, tmp_path, monkeypatch):
    """They lie where no loader looks."""
    (tmp_path / "tensorrt_libs").mkdir()
    (tmp_path / "tensorrt_libs" / "__init__.py").write_text("raise AssertionError('only looked at')")
    monkeypatch.syspath_prepend(tmp_path)
    loaded = []
    monkeypatch.setattr(libraries.ctypes, "CDLL", lambda name, *mode: loaded.append((name, *mode)))
    assert libraries.missing_libraries(TENSORRT) == []
    names = ("libnvinfer.so.10", "libnvonnxparser.so.10")
    assert loaded == [(str(tmp_path / "tensorrt_libs" / name), libraries.ctypes.RTLD_GLOBAL) for name in names]
    loaded.clear()
    assert libraries.missing_libraries(CUDA) == []
    assert not loaded


@pytest.fixture
def dropping(monkeypatch):
    """An ONNX Runtime that offers CUDA and TensorRT and silently opens everything on the CPU, as it does without their libraries."""
    real = ort.InferenceSession
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(libraries, "_loads", lambda name: True)
    monkeypatch.setattr(libraries, "library_versions", dict)
    monkeypatch.setattr(providers, "gpu_count", lambda: None)
    monkeypatch.setattr(ort, "InferenceSession", lambda path, options=None, **_: real(path, options, providers=[CPU]))


def test_a_dropped_provider_is_an_error(dropping):
    with pytest.raises(ProviderError, match="dropped CUDAExecutionProvider.*vision.onnx on CPUExecutionProvider"):
        Idefics2.from_pretrained(device="cuda")
    with pytest.raises(ProviderError, match="dropped TensorrtExecutionProvider, CUDAExecutionProvider"):
        Idefics2.from_pretrained(device="tensorrt")


def test_auto_takes_the_cpu_where_cuda_is_dropped(dropping):
    assert Idefics2.from_pretrained().providers == [CPU]


def test_output_goes_where_it_went_after_gpus_were_looked_for(dropping, monkeypatch):
    """ONNX Runtime prints what it did not find; graphs are opened side by side."""
    monkeypatch.setattr(libraries.sys, "platform", "linux")
    monkeypatch.setattr(ort, "preload_dlls", lambda: time.sleep(random.uniform(0.01, 0.05)), raising=False)
    output = sys.stdout
    for _ in range(2):
        Idefics2.from_pretrained()
        assert sys.stdout is output


def test_bf16_runs_on_cuda_only(exported):
    folder = exported("window", "bf16")
    for device in ("cpu", "auto"):
        with pytest.raises(ProviderError, match="bf16, which ONNX Runtime runs on CUDA only"):
            open_sessions(ModelFolder.open(folder), device)


@pytest.mark.parametrize(("arguments", "entry"), [({}, None), ({"spinning": False}, "0"), ({"spinning": False, "own": "1"}, "1")])
def test_threads_wait_busily_unless_they_are_told_not_to(monkeypatch, arguments, entry):
    found = []

    def note(folder, graph, wanted, options, gpu_options):
        found.append(
            options.get_session_config_entry(sessions.SPINNING) if sessions._has_entry(options, sessions.SPINNING) else None
        )
        raise ProviderError("Seen.")

    monkeypatch.setattr(sessions, "_open", note)
    if "own" in arguments:
        arguments = {**arguments, "session_options": ort.SessionOptions()}
        arguments["session_options"].add_session_config_entry(sessions.SPINNING, arguments.pop("own"))
    with pytest.raises(ProviderError, match="Seen"):
        Idefics2.from_pretrained(device="cpu", **arguments)
    assert set(found) == {entry}


@pytest.mark.parametrize("spinning", [True, False])
@pytest.mark.parametrize("small", [True, False])
def test_small_graphs_wake_no_sleeping_threads(monkeypatch, spinning, small):
    monkeypatch.setattr(sessions, "SMALL", 10**9 if small else 10**3)
    found = Idefics2.from_pretrained(device="cpu", spinning=spinning).engine.sessions
    threads = {one.get_session_options().intra_op_num_threads for one in (found.vision, found.embedding, found.decoder)}
    assert threads == ({1} if small and not spinning else {0})


def test_session_options_are_passed_on():
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_profiling = False
    model = Idefics2.from_pretrained(session_options=options)
    assert model.engine.sessions.decoder.get_session_options().intra_op_num_threads == 1


@pytest.mark.parametrize(
    ("precision", "instructions", "careful"),
    [
        ("int8", ["AVX2"], True),
        ("int8", ["AMX"], False),
        ("int8", ["AVX512-VNNI"], False),
        ("int8", [], True),
        ("fp32", [], False),
    ],
)
def test_sums_that_could_overflow_are_taken_with_care(exported, monkeypatch, precision, instructions, careful):
    """But not where it would only keep integers from the units made for them."""
    monkeypatch.setattr(sessions, "instructions", lambda: instructions)
    options = open_sessions(ModelFolder.open(exported("plain", precision)), "cpu").decoder.get_session_options()
    with nullcontext() if careful else pytest.raises(RuntimeError, match="does not have"):
        assert options.get_session_config_entry("session.x64quantprecision") == "1"


def test_ctrl_c_ends_the_opening(monkeypatch):
    """ONNX Runtime is told to give up, and what a caller's options are used for next is opened."""
    told, pressed, real = threading.Event(), threading.Lock(), sessions._cancel

    def endless(*_, **__):
        if pressed.acquire(blocking=False):
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)  # to this thread, as the system may
        assert told.wait(60)
        raise RuntimeError("given up")

    def cancel(loading, now):
        assert len(loading) <= 3
        real(loading, now)
        if now:
            told.set()

    options = ort.SessionOptions()
    with monkeypatch.context() as patch:
        patch.setattr(ort, "InferenceSession", endless)
        patch.setattr(sessions, "_cancel", cancel)
        with pytest.raises(KeyboardInterrupt):
            Idefics2.from_pretrained(session_options=options)
    assert told.is_set()
    assert Idefics2.from_pretrained(session_options=options).generate("Hi", max_new_tokens=1).token_ids


def test_ctrl_c_does_not_wait_for_what_does_not_give_up(monkeypatch):
    """ONNX Runtime looks at its flag before and after folding a graph's weights, not meanwhile."""
    over, pressed = threading.Event(), threading.Lock()

    def deaf(*_, **__):
        if pressed.acquire(blocking=False):
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        assert over.wait(60)
        raise RuntimeError("given up")

    with monkeypatch.context() as patch:
        patch.setattr(ort, "InferenceSession", deaf)
        with pytest.raises(KeyboardInterrupt):
            Idefics2.from_pretrained()
    assert is_work_left()
    assert Idefics2.from_pretrained().generate("Hi", max_new_tokens=1).token_ids
    over.set()
    for thread in parallel._left:
        thread.join()
    assert not is_work_left()


def test_a_program_does_not_wait_for_it_either(tmp_path):
    script = """
import os, signal, sys, threading, time
import onnxruntime
once = threading.Lock()
def deaf(*_, **__):
    if once.acquire(blocking=False):
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)
    open(sys.argv.pop(), "w").close()
signal.signal(signal.SIGINT, signal.default_int_handler)
onnxruntime.InferenceSession = deaf
from idefics2_onnx.cli import main
main(["run", "Hi"])
"""
    program = [sys.executable, "-c", script, str(tmp_path / "waited")]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip().splitlines()[-1]) == (1, "Aborted!")
    assert not (tmp_path / "waited").exists()


def test_a_session_that_is_being_opened_can_be_given_up():
    options = ort.SessionOptions()
    options.set_load_cancellation_flag(True)
    with pytest.raises(Exception, match=r"(?i)cancel"):
        ort.InferenceSession(ModelFolder.open().file("decoder.onnx"), options, providers=[CPU])


def test_the_callers_session_options_hide_nothing(gpu, exported):
    gpu.nodes["decoder"], gpu.operators = {CUDA: 36, CPU: 4}, {CPU: "GroupQueryAttention"}
    options = ort.SessionOptions()
    options.add_session_config_entry("ep.cuda.fpa_intb_gemm", "0")
    with pytest.raises(ProviderError, match="has no kernels for 4 GroupQueryAttention"):
        Idefics2.from_pretrained(exported("plain"), "cuda", session_options=options, gpu_options=GpuOptions(mixed_gemm=True))
    assert gpu.configured["decoder"] is options
    assert options.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"
    assert options.get_session_config_entry("ep.cuda.fpa_intb_gemm") == "0"  # the caller's own


@pytest.mark.parametrize(
    "reason",
    ["bfc_arena.cc:359 Failed to allocate memory for requested buffer of size 117440512", "CUDA failure 2: out of memory"],
)
def test_a_gpu_without_room(gpu, exported, monkeypatch, reason):
    def full(path, options=None, providers=(), **_):
        raise RuntimeError(reason)

    real = ort.InferenceSession
    monkeypatch.setattr(ort, "InferenceSession", full)
    with pytest.raises(ProviderError, match=r"no room for \w+.onnx, whose weights take 0.0 GB .*--int4 --for cuda, or choose"):
        Idefics2.from_pretrained(exported("plain"), "cuda")

    def full_gpu(path, options=None, providers=(), **more):
        return full(path) if providers != [CPU] else real(path, options, providers, **more)

    monkeypatch.setattr(ort, "InferenceSession", full_gpu)
    assert Idefics2.from_pretrained(exported("plain")).providers == [CPU]
