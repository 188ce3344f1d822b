"""The comparison after an export: that it finds differences, and what becomes of the folder."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from idefics2_onnx import Idefics2, Idefics2OnnxError
from idefics2_onnx.cli import main
from idefics2_onnx.demo.random_model import write_checkpoint
from idefics2_onnx.export import Listener, Quantisation, agreement, export_model, open_layered, verify_folder
from idefics2_onnx.export.errors import CheckpointError, ParityError
from idefics2_onnx.export.verify import Difference, verify_in_subprocess
from small_models import SMALL_MODELS


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "layers"])
def test_verification_passes_and_fails(precision, whole, exported, checkpoint, tmp_path):
    folder = exported("window", precision)
    verification = verify_folder(folder, checkpoint("window"), whole)
    verification.raise_past_floor()
    assert {d.graph for d in verification.differences} == {"vision", "embedding", "decoder"}
    assert len(verification.lines()) == (3 if whole else 4)
    assert ("not run" in verification.lines()[-1]) == (not whole)
    small = SMALL_MODELS["window"]
    write_checkpoint(tmp_path / "other", small.config, image_options=small.image_options, seed=1)
    with pytest.raises(ParityError, match="more than"):
        verify_folder(folder, tmp_path / "other", whole).raise_past_floor()


def test_failed_verification_leaves_no_folder(checkpoint, tmp_path, monkeypatch):
    real = verify_in_subprocess

    def strict(*arguments, **options):
        found = real(*arguments, **options)
        return type(found)([type(d)(**{**vars(d), "passed": False}) for d in found.differences])

    monkeypatch.setattr("idefics2_onnx.export.pipeline.verify_in_subprocess", strict)
    with pytest.raises(ParityError):
        export_model(checkpoint("plain"), tmp_path / "out", "fp32", verify="always")
    assert list(tmp_path.iterdir()) == []


def test_difference_sees_nan_and_clear_tokens():
    expected = np.array([[0.0, 1.0, 0.5], [0.0, 1.0, 0.99]], np.float32)
    swapped = np.array([[0.0, 0.5, 1.0], [0.0, 0.99, 1.0]], np.float32)
    assert Difference.between("decoder", "logits", swapped, expected, "fp16").wrong_tokens == 1
    assert not Difference.between("decoder", "logits", expected * np.nan, expected, "fp16").passed
    assert Difference.between("decoder", "logits", expected, expected, "fp16").passed


def test_verify_names_another_checkpoint(exported, checkpoint):
    with pytest.raises(Idefics2OnnxError, match="other sizes"):
        verify_folder(exported("plain"), checkpoint("window"))


def test_files_beside_a_checkpoint_are_not_run(copy, tmp_path, monkeypatch):
    """Exporting from inside a stranger's folder imports nothing from there."""
    for name in ("psutil", "jinja2", "numpy", "onnxruntime"):
        (copy / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit(3)")
    monkeypatch.chdir(copy)
    export_model(".", tmp_path / "out", "fp32", verify="always")
    assert not (tmp_path / "ran").exists()


def test_comparison_that_cannot_run_keeps_the_folder(checkpoint, tmp_path, monkeypatch):
    """Out of memory, say: "auto" says so and keeps the export, "always" fails."""
    monkeypatch.setattr("idefics2_onnx.export.verify.sys.executable", "/bin/false")
    said = []
    listener = Listener()
    monkeypatch.setattr(listener, "say", said.append)
    report = export_model(checkpoint("plain"), tmp_path / "out", "fp32", listener=listener)
    assert report.verification is None
    assert "Not compared, but kept" in said[-1]
    assert Idefics2.from_pretrained(report.folder).generate("Hi", max_new_tokens=1).token_ids
    with pytest.raises(CheckpointError, match="could not be compared"):
        export_model(checkpoint("plain"), tmp_path / "strict", "fp32", verify="always")
    assert not (tmp_path / "strict").exists()


def test_folders_of_the_hubs_cache_are_compared(exported, checkpoint, tmp_path):
    """Whose files are links to blobs elsewhere."""
    linked = tmp_path / "hub" / "snapshots" / "abc"
    linked.mkdir(parents=True)
    shutil.copytree(exported("window", "bf16"), tmp_path / "hub" / "blobs")
    for path in (tmp_path / "hub" / "blobs").iterdir():
        path.rename(path.with_name(f"blob-{path.name}"))
        (linked / path.name).symlink_to(f"../../blobs/blob-{path.name}")
    for whole in (True, False):
        verify_folder(linked, checkpoint("window"), whole).raise_past_floor()
    found = agreement(linked, open_layered(linked))
    assert found.same == found.positions


def test_what_answers_is_compared_apart_from_what_reads_prompts(checkpoint, tmp_path):
    folder = export_model(checkpoint("plain"), tmp_path, Quantisation("int4", fast_prompts=True), verify="never").folder
    precise = open_layered(checkpoint("plain"))
    reads, answers = (agreement(folder, precise, reader).divergence for reader in ("prompt", "decoder"))
    data = folder / "decoder.onnx.data"
    data.write_bytes(np.random.default_rng(0).permutation(np.frombuffer(data.read_bytes(), np.uint8)).tobytes())
    assert agreement(folder, precise, "prompt").divergence == reads
    assert not agreement(folder, precise, "decoder").divergence <= 10 * answers


@pytest.mark.parametrize("damage", ["manifest", "missing", "short", "graph"])
def test_what_to_compare_with_is_looked_at_first(damage, exported, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(exported("plain"), other)
    data = other / "decoder.onnx.data"
    {
        "manifest": lambda: (other / "idefics2_onnx.json").write_text("{"),
        "missing": data.unlink,
        "short": lambda: data.write_bytes(data.read_bytes()[:-1]),
        "graph": lambda: (other / "vision.onnx").write_bytes(b"x" * (other / "vision.onnx").stat().st_size),
    }[damage]()
    done = CliRunner().invoke(main, ["verify", str(exported("plain")), "--against", str(other)], catch_exceptions=False)
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: ")
    assert not done.stdout


def test_adapters_belong_to_checkpoints(exported, tmp_path):
    alone = CliRunner().invoke(main, ["verify", str(exported("plain")), "--adapter", str(tmp_path)])
    assert alone.exit_code == 2
    done = CliRunner().invoke(
        main, ["verify", str(exported("plain")), "--against", str(exported("plain")), "--adapter", str(tmp_path)]
    )
    assert "is a model folder, which takes no adapter" in done.stderr
