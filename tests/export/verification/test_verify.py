"""The comparison after an export: that it finds differences, and what becomes of the folder."""

from __future__ import annotations

import shutil
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from idefics2_onnx.cli import main
from idefics2_onnx.demo.random_model import write_checkpoint
from idefics2_onnx.export import Listener, Quantisation, agreement, export_model, open_layered, verify_folder
from idefics2_onnx.export.errors import CheckpointError, ParityError
from idefics2_onnx.export.source.checkpoint import FileTensor
from idefics2_onnx.export.source.source_model import SourceModel
from idefics2_onnx.export.verification.attributes import attribute_faults
from idefics2_onnx.export.verification.compare import compare
from idefics2_onnx.export.verification.difference import MARGIN, Difference, Error, Verification
from idefics2_onnx.export.verification.layers import compare_layers
from idefics2_onnx.export.verification.weights import WeightsCheck
from idefics2_onnx.runtime.errors import Idefics2OnnxError
from idefics2_onnx.runtime.folder import read_manifest
from idefics2_onnx.runtime.model import Idefics2
from planted_faults import FAULTS, FUSED_FAULTS, planted
from safetensors.torch import load_file, save_file
from small_models import SMALL_MODELS


@pytest.mark.parametrize(("name", "precision"), [("window", "fp32"), ("window", "fp16"), ("window", "bf16")])
def test_verification_passes_and_fails(name, precision, exported, checkpoint, tmp_path):
    folder = exported(name, precision)
    verification = compare(folder, SourceModel.open(checkpoint(name)), whole=True)
    verification.raise_past_floor()
    assert {d.graph for d in verification.differences} == {"vision", "embedding", "decoder"}
    assert [line.split()[0] for line in verification.lines()[:3]] == ["vision.onnx", "embedding.onnx", "decoder.onnx"]
    assert verification.equal["weights"] > 60
    small = SMALL_MODELS[name]
    write_checkpoint(tmp_path / "other", small.config, image_options=small.image_options, seed=1)
    with pytest.raises(ParityError, match=r"differs from the checkpoint's in [0-9,]+ of [0-9,]+ numbers, .*; and \d+ more"):
        compare(folder, SourceModel.open(tmp_path / "other"), whole=False).raise_past_floor()


@pytest.mark.usefixtures("compared_here")
def test_pieces_are_compared_where_that_is_asked_for(exported, checkpoint):
    folder = exported("window")
    found = verify_folder(folder, checkpoint("window"), whole=False)
    expected = compare(folder, SourceModel.open(checkpoint("window")), whole=False)
    assert (found.differences, found.equal, found.faults) == (expected.differences, expected.equal, expected.faults)
    assert "not run: the graphs as a whole" in found.lines()[-1]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_matrices_are_read_once_of_the_checkpoint_and_once_of_the_folder(precision, exported, checkpoint, monkeypatch):
    """To be compared, for both references, and for the graph."""
    folder, source, read = exported("window", precision), SourceModel.open(checkpoint("window")), FileTensor.read
    reads = Counter()

    def counted(tensor, start, stop):
        reads[tensor.path.suffix, tensor.name.removesuffix(".T").removeprefix("model."), start] += 1
        return read(tensor, start, stop)

    monkeypatch.setattr(FileTensor, "read", counted)
    assert not compare(folder, source, whole=False).faults
    matrices = {key: count for key, count in reads.items() if key[1].endswith(("_proj.weight", "fc1.weight", "fc2.weight"))}
    assert {suffix for suffix, _, _ in matrices} == {".safetensors", ".data"}
    assert len(matrices) > 60
    assert set(matrices.values()) == {1}


EXACT = {"int8": Quantisation("int8"), "int4 for cuda": Quantisation("int4", "cuda")}


@pytest.fixture(scope="module")
def standing(exported, checkpoint, tmp_path_factory):
    """Folders of the small model with a window, by precision or flavour."""

    def make(name):
        if name in EXACT:
            target = tmp_path_factory.getbasetemp() / f"window {name}"
            if not target.exists():
                export_model(checkpoint("window"), target, EXACT[name], verify="never")
            return target
        return exported("window", name.removesuffix(" standard"), "standard" if name.endswith("standard") else "fused")

    return make


@pytest.mark.parametrize("fault", [*FAULTS, *FUSED_FAULTS])
def test_numbers_alone_find_planted_faults(fault, standing, checkpoint, tmp_path):
    """Against float64: in fp32 also what is smaller than any difference that was allowed before."""
    folder = planted(standing("fp16" if fault in FUSED_FAULTS else "fp32"), fault, tmp_path / "spoilt")
    found = list(compare_layers(folder, read_manifest(folder), SourceModel.open(checkpoint("window"))))
    wrong = {(d.graph, d.what.split(",")[0]) for d in found if not d.passed}
    # In the piece that has it, and in no other.
    assert wrong == {
        "epsilon": {("decoder", "layer 0"), ("decoder", "layer 1"), ("decoder", "logits")},
        "epsilon of the connector": wrong - {("decoder", "logits")},
        "window off by one": {("decoder", "layer 0"), ("decoder", "layer 1")},
        "RoPE off by one position": {("decoder", "layer 0"), ("decoder", "layer 1")},
        "a missing norm": {("decoder", "layer 0")},
        # A layer ends where the first weight of the next one is read.
        "weights of norms swapped": {("decoder", "layer 0"), ("decoder", "layer 1")},
        "a zero bias": {("vision", "layer 1")},
        "one position moved": {("vision", "patches")},
    }.get(fault, {("decoder", "layer 1")})
    assert wrong


@pytest.mark.parametrize("name", ["fp32 standard", "fp16", "bf16", *EXACT])
def test_exact_comparisons_find_planted_faults_in_every_type(name, standing, checkpoint, tmp_path):
    source = SourceModel.open(checkpoint("window"))

    def faults(folder, graph):
        checks = WeightsCheck.of(folder, read_manifest(folder), source, graph).faults
        return [f for f in (*checks(), *attribute_faults(folder, read_manifest(folder), source, graph)) if f]

    assert [fault for graph in ("vision", "embedding", "decoder") for fault in faults(standing(name), graph)] == []
    for fault in FAULTS:
        folder = planted(standing(name), fault, tmp_path / fault)
        graph = "vision" if fault in ("epsilon of the connector", "a zero bias", "one position moved") else "decoder"
        assert faults(folder, graph), fault
        shutil.rmtree(folder)


def test_a_folder_that_fails_leaves_nothing_or_another_name(checkpoint, tmp_path, monkeypatch):
    """And says what differs by how much."""
    wrong = Difference("decoder", "layer 3, down", "fp32", Error(3e-3, 2e-2), Error(2e-7, 1e-6), Error(1e-6, 1e-6))
    found = Verification([wrong], {"weights": 90})
    monkeypatch.setattr("idefics2_onnx.export.pipeline.verify_in_subprocess", lambda *_, **__: found)
    with pytest.raises(ParityError) as caught:
        export_model(checkpoint("plain"), tmp_path / "out", "fp32", verify="always")
    assert "decoder.onnx (layer 3, down): largest error by channel 2.0e-02" in str(caught.value)
    assert "the reference's own in fp32 1.0e-06, allowed 4.0e-06" in str(caught.value)
    assert "Nothing was kept; --keep keeps" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ParityError, match=r"The folder was kept as .*out-differs"):
        export_model(checkpoint("plain"), tmp_path / "out", "fp32", verify="always", keep=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out-differs"]
    assert Idefics2.from_pretrained(tmp_path / "out-differs").generate("Hi", max_new_tokens=1).token_ids
    with pytest.raises(CheckpointError, match="already exists, where --keep puts"):
        export_model(checkpoint("plain"), tmp_path / "out", "fp32", verify="always", keep=True)


@pytest.mark.usefixtures("compared_here")
def test_numbers_past_fp16_are_said_to_be_that(copy, tmp_path):
    """Not asked to be reported as a fault of the package."""
    tensors = load_file(copy / "model.safetensors")
    tensors["model.text_model.layers.1.mlp.up_proj.weight"] *= 3e4
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(ParityError, match=r"does not fit its type: decoder\.onnx \(layer 1, gate\).* Export it with --fp32, or"):
        export_model(copy, tmp_path / "out", "fp16")


def test_damaged_weights_are_said_to_be_that():
    nothing = Error(np.nan, np.nan)
    damaged = Difference("decoder", "layer 1, gate", "fp32", nothing, nothing, Error(1e-6, 1e-6), finite=False)
    with pytest.raises(
        ParityError, match=r"itself computes numbers that are not finite, in float64, too: decoder \(layer 1, gate"
    ):
        Verification([damaged], {"weights": 90}).raise_past_floor()


def test_errors_are_measured_by_channel():
    """A loud channel neither hides the quiet ones nor is judged by them, and what is no number fails."""
    truth = np.random.default_rng(0).normal(size=(20, 16))
    truth[:, 3] *= 1000
    spoilt = truth.copy()
    spoilt[5, 7] += 0.5
    quiet = Error.of(spoilt, truth)
    assert quiet.largest > 0.3
    assert quiet.relative < 1e-3
    spoilt = truth.copy()
    spoilt[5, 3] += 0.5
    assert Error.of(spoilt, truth).largest < 1e-3
    least = Error(1e-6, 1e-5)
    assert not Difference("decoder", "x", "fp16", Error.of(truth * np.nan, truth), quiet, least).passed
    assert Difference("decoder", "x", "fp16", quiet, quiet, least).excess == pytest.approx(1 / MARGIN)
    assert Difference("embedding", "x", "fp32", Error(1e-6, 1e-5), Error(0, 0), least).passed
    assert not Difference("embedding", "x", "fp32", Error(2e-6, 0), Error(0, 0), least).passed
    assert Error.of(np.zeros((2, 3)), np.zeros((2, 3))) == Error(0, 0)


def test_verify_names_another_checkpoint(exported, checkpoint):
    with pytest.raises(Idefics2OnnxError, match="other sizes"):
        verify_folder(exported("plain"), checkpoint("window"))


def test_files_beside_a_checkpoint_are_not_run(copy, tmp_path, monkeypatch):
    """Exporting from inside a stranger's folder imports nothing from there, and a process of its own finds what one here does."""
    for name in ("psutil", "jinja2", "numpy", "onnxruntime"):
        (copy / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit(3)")
    monkeypatch.chdir(copy)
    found = export_model(".", tmp_path / "out", "fp32", verify="always").verification
    assert not (tmp_path / "ran").exists()
    expected = compare(tmp_path / "out", SourceModel.open(copy), whole=not found.not_run)
    assert (found.differences, found.equal, found.faults) == (expected.differences, expected.equal, expected.faults)


def test_comparison_that_cannot_run_keeps_the_folder(checkpoint, tmp_path, monkeypatch):
    """Out of memory, say: "auto" says so and keeps the export, "always" fails."""
    monkeypatch.setattr("idefics2_onnx.export.verification.verify.sys", SimpleNamespace(executable="/bin/false"))
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


@pytest.mark.usefixtures("compared_here")
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
