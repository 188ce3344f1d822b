"""Steps that are recorded as a CUDA graph."""

from __future__ import annotations

from idefics2_onnx.runtime.devices.gpu_options import GpuOptions
from idefics2_onnx.runtime.engine import decode_step
from idefics2_onnx.runtime.errors import ProviderError
from idefics2_onnx.runtime.generation.scheduler import Scheduler
from idefics2_onnx.runtime.model import Idefics2
from parity import photo

EXAMPLE = "What is in this picture?"


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
    assert not ours.engine.sessions.gpu_options.cuda_graph
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


def test_nothing_else_works_on_the_gpu_while_a_step_is_recorded(gpu, exported, monkeypatch):
    ours = Idefics2.from_pretrained(exported("plain"), "cuda", gpu_options=GpuOptions(cuda_graph=True))
    real, alone, encoding = decode_step.run, [], []

    def run(*arguments, **options):
        if options.get("recording", -1) != -1:
            alone.append(ours.engine._recording.locked())
        real(*arguments, **options)

    monkeypatch.setattr(decode_step, "run", run)
    encode = ours.engine.encode_images
    monkeypatch.setattr(ours.engine, "encode_images", lambda *a: encoding.append(ours.engine._recording.locked()) or encode(*a))
    with Scheduler(ours) as scheduler:
        scheduler.submit(EXAMPLE, [photo("chelsea")], max_new_tokens=5, eos_token_id=[]).result()
    assert encoding == [True]
    assert alone == [True, False, False, False]
