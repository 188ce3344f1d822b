"""What a graph may refer to: its own weights, and the operators of this package's graphs."""

from __future__ import annotations

import random
import shutil

import onnx
import pytest
from idefics2_onnx.graphs.contract import GRAPHS, OPERATORS, graph_file
from idefics2_onnx.graphs.errors import ModelFolderError
from idefics2_onnx.runtime.devices.graph_file import GraphFile
from idefics2_onnx.runtime.folder import DEMO, ModelFolder
from idefics2_onnx.runtime.model import Idefics2
from manifest_edits import listed
from onnx import helper


@pytest.fixture
def demo_copy(tmp_path):
    return shutil.copytree(DEMO, tmp_path / "demo")


def edited(folder, graph, change):
    """The folder with a graph changed, and its hash written down again."""
    path = folder / graph_file(graph)
    model = onnx.load(path, load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())
    return listed(folder, path.name)


@pytest.mark.parametrize("graph", GRAPHS)
def test_it_reads_what_onnx_reads(graph):
    model, found = onnx.load(DEMO / graph_file(graph), load_external_data=False), GraphFile.read(DEMO / graph_file(graph))
    assert found.operators == {(node.domain, node.op_type) for node in model.graph.node} <= OPERATORS
    assert found.data_files == {f"{graph}.onnx.data"}
    assert {t.name: tuple(t.dims) for t in model.graph.initializer}.items() <= found.shapes.items()


@pytest.mark.parametrize(("name", "flavour"), [("window", "fused"), ("window", "standard")])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "int4"])
def test_exports_are_within_it(name, flavour, precision, exported):
    folder = exported(name, precision, flavour)
    for graph in GRAPHS:
        GraphFile.read(folder / graph_file(graph)).check(graph, ModelFolder.open(folder).manifest.model)


def elsewhere(model):
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "unlisted.bin" if entry.key == "location" else entry.value


def constant_elsewhere(model):
    value = onnx.TensorProto(data_type=1, dims=[1], data_location=1, external_data=[{"key": "location", "value": "other"}])
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=value))


def sparse_elsewhere(model):
    tensor = model.graph.sparse_initializer.add().values
    tensor.name = "sparse"
    tensor.external_data.add(key="location", value="../other")


def loop(model):
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", ""], [], body=body))


def hidden_graph(model):
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], inner=helper.make_graph([], "inner", [], [])))


def function(model):
    model.functions.append(helper.make_function("mine", "F", [], [], [], [helper.make_opsetid("", 22)]))


HOSTILE = {
    elsewhere: "takes weights from 'unlisted.bin', which no hash in the manifest vouches for",
    constant_elsewhere: "takes weights from 'other'",
    sparse_elsewhere: r"takes weights from '\.\./other'",
    loop: "an operator of it has a graph inside",
    hidden_graph: "an operator of it has a graph inside",
    function: "it has functions or a training graph",
    lambda model: model.graph.node.append(helper.make_node("Scan", [], [])): "has the operator Scan, which this package's graphs",
    lambda model: model.graph.node.append(helper.make_node("X", [], [], domain="evil")): r"has the operator evil\.X",
    lambda model: model.ClearField("graph"): "it has no graph",
}


@pytest.mark.parametrize("change", HOSTILE)
def test_hostile_graphs_are_not_opened(change, demo_copy):
    edited(demo_copy, "decoder", change)
    with pytest.raises(ModelFolderError, match=HOSTILE[change]):
        Idefics2.from_pretrained(demo_copy)


def test_what_is_not_a_graph_has_a_sentence(tmp_path):
    """Cut off or damaged anywhere: read as something, or refused."""
    content, source = (DEMO / "embedding.onnx").read_bytes(), random.Random(0)
    path = tmp_path / "embedding.onnx"
    for _ in range(300):
        damaged = bytearray(content[: source.choice([len(content), source.randrange(len(content))])])
        for _ in range(source.randrange(4)):
            damaged[source.randrange(len(damaged))] = source.randrange(256)
        path.write_bytes(damaged)
        try:
            GraphFile.read(path)
        except ModelFolderError as error:
            assert "is not an ONNX graph" in str(error)


@pytest.mark.parametrize(
    ("name", "value", "table"),
    [
        ("positions_per_side", 1, r"position_embedding\.weight"),
        ("patch_size", 7, "patch_embedding"),
        ("max_positions", 4096, "cos"),
    ],
)
def test_sizes_are_those_of_the_graphs(name, value, table, demo_copy):
    listed(demo_copy, model={name: value})
    with pytest.raises(ModelFolderError, match=rf"has .*{table}.* of the shape \[.*\], and the manifest's sizes make it \["):
        Idefics2.from_pretrained(demo_copy)
