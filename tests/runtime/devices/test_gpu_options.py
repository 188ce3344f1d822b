"""Options of GPUs: what they become in ONNX Runtime, and which are refused."""

from __future__ import annotations

import onnxruntime as ort
import pytest
from click.testing import CliRunner
from idefics2_onnx.cli import main
from idefics2_onnx.runtime.devices.gpu_options import GpuOptions
from idefics2_onnx.runtime.errors import ProviderError
from idefics2_onnx.runtime.model import Idefics2


def test_gpu_options_become_onnx_runtimes(monkeypatch):
    monkeypatch.setattr(ort, "__version__", "1.30.0")
    plain = {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}
    assert GpuOptions().cuda(0) == plain
    assert GpuOptions().cuda(1) == {"device_id": "1", **plain}
    found = GpuOptions(tf32=True, tuning=True, memory_limit=8e9).cuda(0, cuda_graph=True)
    assert found == {
        "use_tf32": "1", "tunable_op_enable": "1", "tunable_op_tuning_enable": "1", "enable_cuda_graph": "1",
        "gpu_mem_limit": "8000000000", "arena_extend_strategy": "kSameAsRequested",
    }  # fmt: skip


@pytest.mark.parametrize(("version", "told"), [("1.25.0", "1"), ("1.29.3", "1"), ("1.30.0", None), ("1.31.1", None)])
def test_older_versions_are_told_to_add_up_squares_in_fp32(version, told, gpu, exported, monkeypatch):
    monkeypatch.setattr(ort, "__version__", version)
    Idefics2.from_pretrained(exported("plain"), "cuda")
    for graph in ("vision", "decoder"):
        (_, options), _ = gpu.opened[graph]
        assert options.get("enable_skip_layer_norm_strict_mode") == told


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
