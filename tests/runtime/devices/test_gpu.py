"""The path of GPUs, with a GPU that is made up: the host's memory under another name, and ONNX Runtime's CPU kernels."""

from __future__ import annotations

import ctypes
import json
import mmap
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from idefics2_onnx.cli import main
from idefics2_onnx.export.argmax import argmax_graph
from idefics2_onnx.graphs.contract import ARGMAX
from idefics2_onnx.graphs.errors import ModelFolderError
from idefics2_onnx.runtime.commands import examination as doctor
from idefics2_onnx.runtime.devices import libraries, providers, tensorrt
from idefics2_onnx.runtime.devices.device import CPU, CUDA, TENSORRT, Device, place
from idefics2_onnx.runtime.devices.gpu_options import GpuOptions
from idefics2_onnx.runtime.devices.sessions import open_sessions
from idefics2_onnx.runtime.engine import argmax, decode_step
from idefics2_onnx.runtime.errors import ProviderError
from idefics2_onnx.runtime.folder import ModelFolder
from idefics2_onnx.runtime.memory import cuda_runtime
from idefics2_onnx.runtime.memory.buffer import Storage
from idefics2_onnx.runtime.model import Idefics2
from made_up_cuda import MadeUpCuda
from onnxruntime.capi import onnxruntime_inference_collection as python_side
from parity import photos

EXAMPLE = "What is in this picture?"


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """An ONNX Runtime with CUDA and TensorRT, whose sessions remember how they were opened and run."""
    seen = SimpleNamespace(
        opened={}, configured={}, recordings=[], released=[], cuda=MadeUpCuda(), refuses="", nodes={}, operators={}
    )
    real, device_type, vendor = ort.InferenceSession, python_side.get_ort_device_type, python_side.get_vendor_id_for_device_type

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
    monkeypatch.setattr(python_side, "get_vendor_id_for_device_type", lambda name: None if name == "cuda" else vendor(name))
    monkeypatch.setattr(cuda_runtime, "_library", lambda: seen.cuda)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(ort, "InferenceSession", Session)
    monkeypatch.setattr(libraries, "_loads", lambda name: True)
    monkeypatch.setattr(libraries, "library_versions", dict)
    monkeypatch.setattr(providers, "gpu_count", lambda: None)
    monkeypatch.setattr(libraries.sys, "platform", "linux")
    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return seen


def test_a_gpu_gives_the_processors_answers(gpu, exported):
    images = photos()[:2]
    for name, precision in (("plain", "fp32"), ("window", "fp16")):
        expected = Idefics2.from_pretrained(exported(name, precision), "cpu").generate(
            [EXAMPLE, "And now?"], [images[:1], images], max_new_tokens=9
        )
        ours = Idefics2.from_pretrained(exported(name, precision), "cuda")
        assert ours.providers == [CUDA, CPU]
        assert ours.engine.storage.device == "cuda"
        found = ours.generate([EXAMPLE, "And now?"], [images[:1], images], max_new_tokens=9)
        assert [one.token_ids for one in found] == [one.token_ids for one in expected]


def test_greedy_steps_bring_ids_back_and_others_logits(gpu, exported):
    ours = Idefics2.from_pretrained(exported("plain"), "cuda")
    logits = 4 * ours.engine.sizes.vocab_size
    ours.generate(EXAMPLE, max_new_tokens=9, eos_token_id=[])
    assert gpu.cuda.copied.count(logits) == 1  # the prompt's
    for options in (
        {"do_sample": True},
        {"logprobs": True},
        {"repetition_penalty": 1.3},
        {"min_new_tokens": 3},
    ):
        gpu.cuda.copied.clear()
        ours.generate(EXAMPLE, max_new_tokens=9, eos_token_id=[], **options)
        assert gpu.cuda.copied.count(logits) == 9
    plain = Idefics2.from_pretrained(exported("plain"), "cuda", gpu_options=GpuOptions(argmax=False))
    assert plain.engine.argmax is None


def test_logits_that_are_not_finite_are_noticed_on_the_gpu(gpu, exported, monkeypatch):
    ours = Idefics2.from_pretrained(exported("plain"), "cuda")
    monkeypatch.setattr(argmax.Argmax, "__call__", lambda self: ([5], np.array([[np.nan]], np.float32)))
    with pytest.raises(ModelFolderError, match="not finite"):
        ours.generate(EXAMPLE, max_new_tokens=3, eos_token_id=[])


def test_the_argmax_that_ships_is_the_one_that_is_written():
    shipped = argmax.files(argmax.graphs).joinpath(ARGMAX).read_bytes()
    assert onnx.load_from_string(shipped) == argmax_graph()
    session = argmax.open_argmax([CPU])
    logits = np.random.default_rng(0).normal(size=(3, 1, 999)).astype(np.float32)
    logits[1, 0, [40, 700]] = 9  # the first of two
    logits[2, 0, 3] = np.inf
    value, storage = ort.OrtValue.ortvalue_from_numpy(logits), Storage("cpu", 1, None)
    ids, total = argmax.Argmax(session, value, np.array([], int), storage)()
    assert ids == logits[:, 0].argmax(-1).tolist()
    assert ids[1] == 40
    never = [ids[0], 40]
    ids, _ = argmax.Argmax(session, value, np.array(never), storage)()
    logits[:, 0, never] = -np.inf
    assert ids == logits[:, 0].argmax(-1).tolist()
    assert np.isfinite(total[:2]).all()
    assert not np.isfinite(total[2]).any()


def test_steps_are_recorded_one_recording_per_place(gpu, exported):
    ours = Idefics2.from_pretrained(exported("plain"), "cuda", gpu_options=GpuOptions(cuda_graph=True))
    assert gpu.opened["decoder"][0][1]["enable_cuda_graph"] == "1"
    assert "enable_cuda_graph" not in gpu.opened["vision"][0][1]
    first = ours.generate(EXAMPLE, max_new_tokens=5, eos_token_id=[])
    prompt, *steps = gpu.recordings
    assert prompt == -1
    assert len(steps) == 4
    assert len(set(steps)) == 1
    assert steps[0] > 0
    assert gpu.released == steps[:1]
    gpu.recordings.clear()
    assert ours.generate(EXAMPLE, max_new_tokens=5, eos_token_id=[]).token_ids == first.token_ids
    assert gpu.recordings[1] != steps[0]


def test_what_cannot_be_recorded_runs_step_by_step(gpu, exported, capsys):
    gpu.refuses = "This session cannot use the graph capture feature"
    ours = Idefics2.from_pretrained(exported("plain"), "cuda", gpu_options=GpuOptions(cuda_graph=True))
    assert "decoder.onnx cannot be recorded as a CUDA graph (This session cannot" in capsys.readouterr().err
    assert not ours.engine.sessions.options.cuda_graph
    ours.generate(EXAMPLE, max_new_tokens=3, eos_token_id=[])
    assert set(gpu.recordings) == {-1}


def test_a_recording_that_fails_is_given_up(gpu, exported, capsys, monkeypatch):
    ours = Idefics2.from_pretrained(exported("plain"), "cuda", gpu_options=GpuOptions(cuda_graph=True))
    real = decode_step.run

    def run(*arguments, **options):
        if options.get("recording", -1) != -1:
            raise ProviderError("capture failed.")
        real(*arguments, **options)

    monkeypatch.setattr(decode_step, "run", run)
    found = ours.generate(EXAMPLE, max_new_tokens=5, eos_token_id=[])
    assert capsys.readouterr().err.count("capture failed. Steps go on without a CUDA graph.") == 1
    assert (
        found.token_ids
        == Idefics2.from_pretrained(exported("plain"), "cpu").generate(EXAMPLE, max_new_tokens=5, eos_token_id=[]).token_ids
    )


def test_gpu_options_become_onnx_runtimes():
    plain = {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}
    assert GpuOptions().cuda(1, "fp32") == {"device_id": "1", **plain}
    assert GpuOptions().cuda(0, "fp16") == plain | {"use_tf32": "1"}  # the connector: fp32 for its range
    found = GpuOptions(tf32=True, tuning=True, memory_limit=8e9).cuda(0, "fp32", cuda_graph=True)
    assert found == {
        "use_tf32": "1", "tunable_op_enable": "1", "tunable_op_tuning_enable": "1", "enable_cuda_graph": "1",
        "gpu_mem_limit": "8000000000", "arena_extend_strategy": "kSameAsRequested",
    }  # fmt: skip


def test_mixed_products_are_asked_for_by_option(gpu, exported):
    entry = "ep.cuda.fpa_intb_gemm"
    Idefics2.from_pretrained(exported("plain"), "cuda", gpu_options=GpuOptions(mixed_gemm=True))
    assert all(gpu.configured[graph].get_session_config_entry(entry) == "1" for graph in ("vision", "decoder"))
    own = "session.use_device_allocator_for_initializers"  # the arena would take up to twice as much for weights
    assert gpu.configured["decoder"].get_session_config_entry(own) == "1"
    Idefics2.from_pretrained(exported("plain"), "cuda")
    with pytest.raises(RuntimeError, match=entry):
        gpu.configured["decoder"].get_session_config_entry(entry)


@pytest.mark.parametrize(
    "wrong",
    [
        {"memory_limit": 0},
        {"memory_limit": True},
        {"memory_limit": "8GB"},
        {"memory_limit": float("nan")},
        {"tf32": 1},
        {"argmax": "no"},
    ],
)
def test_gpu_options_that_mean_nothing(wrong):
    with pytest.raises(ProviderError, match="Give "):
        GpuOptions(**wrong)


def test_gpu_options_on_the_command_line(gpu, exported):
    arguments = ["run", "Hi", "-m", str(exported("plain")), "--device", "cuda", "--max-new-tokens", "1"]
    done = CliRunner().invoke(
        main, [*arguments, "--gpu-option", "memory_limit=8e9", "--gpu-option", "tf32=true"], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert gpu.opened["vision"][0][1]["gpu_mem_limit"] == "8000000000"
    assert gpu.opened["vision"][0][1]["use_tf32"] == "1"
    wrong = CliRunner().invoke(main, [*arguments, "--gpu-option", "speed=9"])
    assert "no GPU option 'speed'" in wrong.stderr
    assert wrong.exit_code == 2


def test_graphs_go_where_they_are_sent():
    both = place("tensorrt:1")
    assert both["vision"] == Device("tensorrt", 1)
    assert both["embedding"] == both["decoder"] == both["prompt"] == Device("cuda", 1)
    assert place("openvino")["decoder"] == Device("cpu")
    assert place("cuda,vision=tensorrt") == place("tensorrt")
    assert place("tensorrt,decoder=tensorrt")["prompt"] == Device("tensorrt")
    assert place("cpu,vision=openvino") == place("openvino")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cuda,sound=cpu", "'sound=cpu' in the device 'cuda,sound=cpu' is not GRAPH=DEVICE"),
        ("cuda,vision", "is not GRAPH=DEVICE"),
        ("cuda,vision=cpu", "several memories"),
        ("cuda:1,vision=tensorrt", "several memories"),
        ("auto,vision=tensorrt", "several memories"),
        ("cpu,decoder=openvino", "more than images on OpenVINO"),
        ("cuda,vision=fast", "no device 'fast'"),
    ],
)
def test_places_that_do_not_work(name, expected):
    with pytest.raises(ProviderError, match=expected):
        place(name)


def test_tensorrt_takes_the_images_only(gpu, exported, capsys):
    folder = exported("window", "fp16", "standard")
    ours = Idefics2.from_pretrained(folder, "tensorrt")
    assert [name for name, _ in gpu.opened["vision"]] == [TENSORRT, CUDA, CPU]
    assert [name for name, _ in gpu.opened["decoder"]] == [CUDA, CPU]
    assert "TensorRT builds engines for vision.onnx, which takes minutes" in capsys.readouterr().err
    options = gpu.opened["vision"][0][1]
    sizes = ours.engine.sizes
    side, patches = sizes.patch_size * sizes.positions_per_side, sizes.positions_per_side**2
    assert options["trt_profile_max_shapes"] == f"pixel_values:4x3x{side}x{side},position_ids:{patches}"
    assert options["trt_profile_min_shapes"] == f"pixel_values:1x3x{sizes.patch_size}x{sizes.patch_size},position_ids:1"
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


@pytest.mark.parametrize(
    "providers", [[], [(CPU,)], [(CPU, {}, 1)], [None], [(CUDA, {"device_id": ""})], [(CUDA, {"device_id": "first"})]]
)
def test_provider_lists_that_are_none(gpu, providers):
    with pytest.raises(ProviderError, match="Give a list of names, or of pairs"):
        Idefics2.from_pretrained(providers=providers)


def test_a_provider_that_takes_nothing_of_a_graph_is_an_error(gpu, exported):
    gpu.nodes["vision"] = {CUDA: 90, CPU: 4}
    with pytest.raises(
        ProviderError, match=r"TensorrtExecutionProvider takes none of vision.onnx's nodes \(90 on CUDA.*, 4 on CPU.*standard"
    ):
        open_sessions(ModelFolder.open(exported("window", "fp32", "standard")), "tensorrt")
    gpu.nodes["vision"] = {CPU: 94}
    with pytest.raises(ProviderError, match="CUDAExecutionProvider takes none of vision.onnx's nodes"):
        open_sessions(ModelFolder.open(exported("plain")), "cuda")


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


def test_pinned_memory_is_given_back(gpu):
    calls, forgotten = [], []
    gpu.cuda.cudaHostRegister = lambda address, size, flags: calls.append((address.value, size.value)) or 0
    gpu.cuda.cudaHostUnregister = lambda address: calls.append(address.value)
    array = cuda_runtime.pinned((2, 5), 1)
    place_of_it = array.ctypes.data
    assert calls == [(place_of_it, 40)]
    assert place_of_it % mmap.PAGESIZE == 0  # with nothing else in its pages, which CUDA would pin as well
    assert gpu.cuda.devices == [1]
    part = array[1:]
    del array
    assert len(calls) == 1
    del part
    assert calls[1:] == [place_of_it]
    gpu.cuda.cudaHostRegister = lambda *_: 2
    gpu.cuda.cudaGetLastError = lambda: forgotten.append(2)
    assert cuda_runtime.pinned((2, 5), 1).shape == (2, 5)
    assert len(calls) == 2
    assert forgotten == [2]


def test_zeros_do_not_come_from_the_host(gpu, monkeypatch):
    monkeypatch.setattr(
        ort.OrtValue,
        "ortvalue_from_shape_and_type",
        lambda shape, *_: ort.OrtValue.ortvalue_from_numpy(np.ones(shape, np.float32)),
    )
    storage = Storage("cuda", 1, None, 1)
    assert not storage.buffer(2, 3, 4, 5)._value.numpy().any()
    assert gpu.cuda.devices == [1]
    assert not gpu.cuda.copied


def test_rows_are_copied_group_by_group(gpu, exported):
    storage = Idefics2.from_pretrained(exported("plain"), "cuda").engine.storage
    source, target = storage.buffer(2, 3, 4, 5), storage.buffer(3, 3, 7, 5)
    numbers = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)
    source.write(numbers)
    target.copy(2, source, 1, 1, 3)
    expected = np.zeros((3, 3, 7, 5), np.float32)
    expected[2, :, 1:3] = numbers[1, :, 1:3]
    assert np.array_equal(target.read(), expected)
    target.copy(0, source, 0, 2, 2)
    assert np.array_equal(target.read(), expected)


def test_what_cuda_refuses_is_an_error(gpu, exported, monkeypatch):
    model = Idefics2.from_pretrained(exported("plain"), "cuda")
    gpu.cuda.cudaMemset = lambda *_: 2
    with pytest.raises(ProviderError, match=r"CUDA could not copy or clear memory of the GPU \(out of memory\)"):
        model.generate(EXAMPLE, max_new_tokens=1)
    monkeypatch.setattr(ort.OrtValue, "ortvalue_from_shape_and_type", lambda *_: 1 / 0)
    with pytest.raises(ProviderError, match="The GPU gave no memory for"):
        model.generate(EXAMPLE, max_new_tokens=1)


def test_layers_that_the_cpu_would_run_are_an_error(gpu, exported):
    gpu.nodes["decoder"], gpu.operators[CPU] = {CUDA: 90, CPU: 2}, "GroupQueryAttention"
    expected = (
        r"no kernels for 2 GroupQueryAttention in decoder.onnx \(fp32\).*with --fp16 or --bf16, or with --attention standard"
    )
    with pytest.raises(ProviderError, match=expected):
        Idefics2.from_pretrained(exported("plain"), "cuda")
    with pytest.raises(ProviderError, match="with --int4 --for cuda, or with --fp16, or choose"):
        Idefics2.from_pretrained(exported("plain", "int8"), "cuda")
    assert Idefics2.from_pretrained(exported("plain"), "auto").providers == [CPU]


def test_the_callers_session_options_hide_nothing(gpu, exported):
    gpu.nodes["decoder"], gpu.operators = {CUDA: 36, CPU: 4}, {CPU: "GroupQueryAttention"}
    options = ort.SessionOptions()
    options.add_session_config_entry("ep.cuda.fpa_intb_gemm", "0")
    with pytest.raises(ProviderError, match="has no kernels for 4 GroupQueryAttention"):
        Idefics2.from_pretrained(exported("plain"), "cuda", session_options=options, gpu_options=GpuOptions(mixed_gemm=True))
    assert gpu.configured["decoder"] is options
    assert options.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"
    assert options.get_session_config_entry("ep.cuda.fpa_intb_gemm") == "0"  # the caller's own


def test_gpus_that_are_not_there(gpu, monkeypatch):
    for count, seen in ((1, "1 GPU"), (0, "no GPU")):
        monkeypatch.setattr(providers, "gpu_count", lambda count=count: count)
        with pytest.raises(ProviderError, match=f"no GPU number 5: CUDA sees {seen}. Choose"):
            Idefics2.from_pretrained(device="cuda:5")
    monkeypatch.setattr(providers, "gpu_count", lambda: 6)
    Idefics2.from_pretrained(device="cuda:5")
    assert gpu.opened["decoder"][0][1]["device_id"] == "5"


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


def test_inputs_are_on_the_gpu_before_a_run(gpu, exported, monkeypatch):
    """A run does not wait for the copies that a binding begins."""
    monkeypatch.setattr(ort.IOBinding, "bind_cpu_input", lambda *_: pytest.fail("the run's own stream would not wait for it"))
    model = Idefics2.from_pretrained(exported("plain"), "cuda")
    assert model.generate(EXAMPLE, photos()[:1], max_new_tokens=2, eos_token_id=[]).token_ids


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
