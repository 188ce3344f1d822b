"""Patch positions against torch's own arithmetic, and in exported graphs."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from idefics2_onnx.demo.random_model import write_checkpoint
from idefics2_onnx.export import export_model
from idefics2_onnx.graphs.idefics2.positions import bucket_indices, position_table, torch_arange
from small_models import SMALL_MODELS, SmallModel
from transformers.models.idefics2.modeling_idefics2 import Idefics2VisionEmbeddings

TABLE = "vision_model.embeddings.position_embedding.weight"


@pytest.mark.parametrize("side", range(2, 130))
def test_edges_equal_torch(side):
    edges = torch.arange(1 / side, 1.0, 1 / side).numpy()
    assert torch_arange(1 / side).tolist() == edges.tolist()


def reference_buckets(patches, side):
    edges = torch.arange(1 / side, 1.0, 1 / side)
    fractions = torch.arange(patches, dtype=torch.float32) * (1.0 / torch.tensor(patches))
    return torch.bucketize(fractions.clamp(max=1.0 - 1e-6), edges, right=True)


@pytest.mark.parametrize("side", [1, 2, 7, 16, 32, 70, 71, 128])
def test_buckets_equal_torch_for_every_grid(side):
    for patches in range(1, 141):
        assert bucket_indices(patches, side).tolist() == reference_buckets(patches, side).tolist(), patches


def test_the_table_has_a_row_for_every_number_of_patches():
    table = position_table(70, 280)
    assert table.dtype == np.int32
    assert table.shape == (281, 280)
    for patches in (1, 25, 49, 50, 55, 82, 279, 280):
        assert table[patches, :patches].tolist() == reference_buckets(patches, 70).tolist()
        assert not table[patches, patches:].any()


def positions_in(folder, patch):
    """rows, columns → what the exported graph itself looks up in the table of embeddings."""
    graph = onnx.load(folder / "vision.onnx")
    (lookup,) = [node for node in graph.graph.node if TABLE in node.input]
    part = onnx.utils.Extractor(graph).extract_model(["pixel_values"], [lookup.input[1]])
    session = ort.InferenceSession(part.SerializeToString(), providers=["CPUExecutionProvider"])

    def positions(rows, columns):
        pixels = np.zeros((1, 3, patch * rows + patch - 1, patch * columns), np.float32)
        return session.run(None, {"pixel_values": pixels})[0]

    return positions


def check_positions(folder, side, patch):
    """768 grids."""
    found = positions_in(folder, patch)
    columns_of = {count: reference_buckets(count, side) for count in (1, 7, 27, 70, 82, 128)}
    for rows in range(1, 129):
        down = reference_buckets(rows, side)[:, None] * side
        for columns, across in columns_of.items():
            assert found(rows, columns).tolist() == (down + across).flatten().tolist(), (rows, columns)


@pytest.mark.parametrize("name", ["plain", "window"])
def test_exported_graphs_look_up_the_references_positions(name, exported):
    vision = SMALL_MODELS[name].config.vision_config
    check_positions(exported(name), vision.image_size // vision.patch_size, vision.patch_size)


def test_a_table_of_the_real_models_size_does_so_too(tmp_path):
    """In ONNX Runtime, float operators get grids of 25, 49, 50, 55 and 82 patches wrong."""
    write_checkpoint(tmp_path / "checkpoint", SmallModel(vision={"image_size": 140, "patch_size": 2}).config)
    check_positions(export_model(tmp_path / "checkpoint", tmp_path / "model", "fp32", verify="never").folder, 70, 2)


def test_ids_equal_the_reference_module():
    class Config:
        hidden_size, image_size, patch_size, num_channels = 1, 980, 14, 3

    embeddings = Idefics2VisionEmbeddings(Config)
    torch.nn.init.zeros_(embeddings.patch_embedding.weight)
    torch.nn.init.zeros_(embeddings.patch_embedding.bias)
    embeddings.position_embedding.weight.data[:, 0] = torch.arange(4900)
    for rows, columns in [(70, 70), (1, 70), (27, 48), (53, 70), (69, 13), (3, 2)]:
        pixels = torch.zeros(1, 3, rows * 14, columns * 14)
        with torch.no_grad():
            expected = embeddings(pixels, torch.ones(1, rows, columns, dtype=torch.bool))[0, :, 0]
        ids = bucket_indices(rows, 70)[:, None] * 70 + bucket_indices(columns, 70)
        assert ids.flatten().tolist() == expected.long().tolist()
