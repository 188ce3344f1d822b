"""Patch positions against torch's own arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from idefics2_onnx.runtime.engine.positions import bucket_indices, position_ids, torch_arange
from transformers.models.idefics2.modeling_idefics2 import Idefics2VisionEmbeddings


@pytest.mark.parametrize("side", range(2, 130))
def test_edges_equal_torch(side):
    edges = torch.arange(1 / side, 1.0, 1 / side).numpy()
    assert torch_arange(1 / side).tolist() == edges.tolist()


@pytest.mark.parametrize("side", [1, 2, 7, 16, 32, 70, 71, 128])
def test_buckets_equal_torch_for_every_grid(side):
    edges = torch.arange(1 / side, 1.0, 1 / side)
    for patches in range(1, 141):
        fractions = torch.arange(patches, dtype=torch.float32) * (1.0 / torch.tensor(patches))
        expected = torch.bucketize(fractions.clamp(max=1.0 - 1e-6), edges, right=True)
        assert bucket_indices(patches, side).tolist() == expected.tolist(), patches


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
        ids = position_ids(rows, columns, 70)
        assert ids.dtype == np.int64
        assert ids.tolist() == expected.long().tolist()
