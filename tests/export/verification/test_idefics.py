"""The comparison of an IDEFICS folder with its checkpoint: that it passes, and that it finds differences where they are."""

from __future__ import annotations

import shutil

import pytest
from idefics2_onnx.demo.random_idefics import write_checkpoint
from idefics2_onnx.export import Quantisation, agreement, export_model, open_layered
from idefics2_onnx.export.errors import ParityError
from idefics2_onnx.export.source.source_model import SourceModel
from idefics2_onnx.export.verification.attributes import attribute_faults
from idefics2_onnx.export.verification.compare import compare
from idefics2_onnx.export.verification.layers import compare_layers
from idefics2_onnx.export.verification.weights import WeightsCheck
from idefics2_onnx.graphs.contract import GRAPHS_OF
from idefics2_onnx.runtime.folder import read_manifest
from planted_faults import IDEFICS_FAULTS
from small_idefics import SMALL_IDEFICS

QUANTISED = {
    "int8": Quantisation("int8"),
    "int4 with fast prompts": Quantisation("int4", group=16, fast_prompts=True),
    "int4 for cuda": Quantisation("int4", "cuda", group=16, symmetric=False),
}
SWEPT = [(name, precision) for name in SMALL_IDEFICS for precision in ("fp32", "fp16", "bf16")]


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("idefics_base", "fp32"),
        *(pytest.param(*case, marks=pytest.mark.sweep) for case in SWEPT if case != ("idefics_base", "fp32")),
    ],
)
def test_a_folder_is_its_checkpoint(name, precision, exported, checkpoint, tmp_path):
    folder = exported(name, precision, SMALL_IDEFICS[name].flavours[0])
    found = compare(folder, SourceModel.open(checkpoint(name)), whole=True)
    found.raise_past_floor()
    assert [line.split(".")[0] for line in found.lines()[:4]] == list(GRAPHS_OF["idefics"])
    assert {"logits of prompt 1, step 2", "logits of prompt 2", "cross.0.value"} <= {d.what for d in found.differences}


def test_another_checkpoint_is_not_it(exported, checkpoint, tmp_path):
    write_checkpoint(tmp_path / "other", SMALL_IDEFICS["idefics"].config, seed=1)
    with pytest.raises(ParityError, match=r"differs from the checkpoint's in [0-9,]+ of [0-9,]+ numbers, .*; and \d+ more"):
        compare(exported("idefics"), SourceModel.open(tmp_path / "other"), whole=False).raise_past_floor()


def test_numbers_alone_find_planted_faults(exported, checkpoint, tmp_path):
    """All at once: each in the piece that has it, and in no other."""
    folder, source = tmp_path / "spoilt", SourceModel.open(checkpoint("idefics"))
    shutil.copytree(exported("idefics"), folder)
    assert all(d.passed for d in compare_layers(folder, read_manifest(folder), source))
    for plant, _ in IDEFICS_FAULTS.values():
        plant(folder)
    found = list(compare_layers(folder, read_manifest(folder), source))
    assert {(d.graph, d.what.split(",")[0]) for d in found if not d.passed} == {place for _, place in IDEFICS_FAULTS.values()}


@pytest.mark.sweep
@pytest.mark.parametrize("fault", IDEFICS_FAULTS)
def test_numbers_alone_find_each_planted_fault(fault, exported, checkpoint, tmp_path):
    folder, (plant, place) = tmp_path / "spoilt", IDEFICS_FAULTS[fault]
    shutil.copytree(exported("idefics"), folder)
    plant(folder)
    found = compare_layers(folder, read_manifest(folder), SourceModel.open(checkpoint("idefics")))
    assert {(d.graph, d.what.split(",")[0]) for d in found if not d.passed} == {place}


@pytest.mark.parametrize("precision", ["fp32", pytest.param("fp16", marks=pytest.mark.sweep)])
def test_weights_are_compared_exactly(precision, exported, checkpoint, tmp_path):
    source = SourceModel.open(checkpoint("idefics"))

    def faults(folder):
        for graph in GRAPHS_OF["idefics"]:
            yield from WeightsCheck.of(folder, read_manifest(folder), source, graph).faults()
            yield from attribute_faults(folder, read_manifest(folder), source, graph)

    assert not any(faults(exported("idefics", precision)))
    for fault, (plant, _) in IDEFICS_FAULTS.items():
        folder = tmp_path / fault
        shutil.copytree(exported("idefics", precision), folder)
        plant(folder)
        assert any(faults(folder)) == (fault != "every image seen"), fault  # which is no weight and no attribute
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("idefics_odd", "int8"),  # which is traced already
        pytest.param("idefics", "int8", marks=pytest.mark.sweep),
        pytest.param("idefics", "int4 with fast prompts", marks=pytest.mark.sweep),
        pytest.param("idefics_base", "int4 for cuda", marks=pytest.mark.sweep),
        pytest.param("idefics_plain", "int4 for cuda", marks=pytest.mark.sweep),
    ],
)
def test_integers_are_compared_and_agree(name, kind, checkpoint, tmp_path):
    folder = export_model(checkpoint(name), tmp_path / "out", QUANTISED[kind], verify="never").folder
    found = compare(folder, SourceModel.open(checkpoint(name)), whole=True)
    found.raise_past_floor()
    assert found.equal["weights"] > 60
    assert read_manifest(folder).precision["cross"] == "int8"
    agreed = agreement(folder, open_layered(checkpoint(name)))
    assert agreed.same >= 0.7 * agreed.positions  # random weights leave likeliest tokens close together
    assert agreed.divergence < 0.02
