"""Operators that add and norm at once, taken apart before a graph is compared piece by piece."""

from __future__ import annotations

import shutil

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from idefics2_onnx.export.source.source_model import SourceModel
from idefics2_onnx.export.verification.attributes import attribute_faults
from idefics2_onnx.export.verification.cut import whole_prompt
from idefics2_onnx.export.verification.graphs import OpenedGraph, load_graph, opened
from idefics2_onnx.graphs.contract import graph_file
from idefics2_onnx.runtime.folder import read_manifest

SUMMED = "SkipSimplifiedLayerNormalization"


def test_it_computes_the_same(exported):
    folder = exported("window", "fp16")
    sizes = read_manifest(folder).model
    call = whole_prompt(sizes, torch.randn(1, 7, sizes.hidden_size, generator=torch.Generator().manual_seed(0)))
    whole = ort.InferenceSession(folder / graph_file("decoder"), providers=["CPUExecutionProvider"])
    apart = load_graph(folder, "decoder")
    kinds = [node.op_type for node in apart.graph]
    assert (kinds.count(SUMMED), kinds.count("SimplifiedLayerNormalization"), kinds.count("Add")) == (0, 5, 4)
    for found, expected in zip(opened(apart).run(**call), OpenedGraph(whole).run(**call), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-2)


def _epsilon(node: onnx.NodeProto) -> None:
    node.attribute[0].f *= 10


def _bias(node: onnx.NodeProto) -> None:
    node.input.append(node.input[0])


@pytest.mark.parametrize(
    ("change", "said"),
    [(_epsilon, "has the epsilon"), (_bias, f"in a {SUMMED}, which is no norm")],
)
def test_what_is_wrong_with_one_is_said(change, said, exported, checkpoint, tmp_path):
    folder = shutil.copytree(exported("window", "fp16"), tmp_path / "spoilt")
    path = folder / graph_file("decoder")
    model = onnx.load(path, load_external_data=False)
    change([node for node in model.graph.node if node.op_type == SUMMED][1])
    path.write_bytes(model.SerializeToString())
    source = SourceModel.open(checkpoint("window"))
    found = [fault for fault in attribute_faults(folder, read_manifest(folder), source, "decoder") if fault]
    assert len(found) == 1
    assert "text_model.layers.1.input_layernorm" in found[0]
    assert said in found[0]
