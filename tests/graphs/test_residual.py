"""Sums and the norms that read them: one operator where the flavour has it."""

from __future__ import annotations

from collections import Counter

import onnx
import pytest
from idefics2_onnx.graphs.contract import graph_file

SUMMED = "SkipSimplifiedLayerNormalization"


@pytest.mark.parametrize(
    ("name", "alone", "summed"),
    # Alone are the first norm, which reads what comes in, the last, which reads some rows of a sum, and norms of heads.
    [("window", 2, 3), ("idefics", 3, 5)],
)
def test_fused_decoders_make_sums_in_norms(name, alone, summed, exported):
    nodes = onnx.load(exported(name, "fp16") / graph_file("decoder"), load_external_data=False).graph.node
    found = Counter(node.op_type for node in nodes)
    assert (found["SimplifiedLayerNormalization"], found[SUMMED], found["Add"]) == (alone, summed, 1)
    for node in nodes:
        if node.op_type == SUMMED:
            normed, *statistics, total = node.output
            assert normed
            assert total
            assert statistics == ["", ""]  # or a kernel would compute them


@pytest.mark.parametrize(
    ("precision", "flavour", "norm"),
    [("fp16", "standard", "RMSNormalization"), ("fp32", "fused", "SimplifiedLayerNormalization")],
)
def test_other_decoders_add(precision, flavour, norm, exported):
    nodes = onnx.load(exported("window", precision, flavour) / graph_file("decoder"), load_external_data=False).graph.node
    found = Counter(node.op_type for node in nodes)
    assert (found[norm], found[SUMMED]) == (5, 0)
