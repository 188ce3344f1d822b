"""Packings: what they store means the matrix they were given, as closely as their bits allow."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
import torch
from idefics2_onnx.export.packing import Channels, Groups
from onnx import TensorProto, helper, numpy_helper


def packed(packing, matrix):
    """The parts of a packed matrix, put together from their pieces, of the types and shapes that were announced."""
    rows, columns = matrix.shape
    pieces = {}
    for index, piece in packing.pack(rows, columns, lambda start, stop: matrix[start:stop]):
        pieces.setdefault(index, []).append(piece.reshape(-1))
    announced = packing.parts(rows, columns)
    assert list(pieces) == list(range(len(announced)))
    parts = [torch.cat(pieces[index]).reshape(shape) for index, (_, shape) in enumerate(announced)]
    assert [part.dtype for part in parts] == [dtype for dtype, _ in announced]
    return parts


def product(packing, matrix, x):
    """x · matrixᵀ as ONNX Runtime computes it from the packed matrix."""
    names = ["data", "scales", "zeros"]
    parts = dict(zip(names, packed(packing, matrix), strict=False))
    attributes = {"K": matrix.shape[1], "N": matrix.shape[0], "bits": packing.bits, "block_size": packing.size}
    node = helper.make_node("MatMulNBits", ["x", *parts], ["y"], domain="com.microsoft", **attributes)
    kind = TensorProto.FLOAT if packing.dtype == torch.float32 else TensorProto.FLOAT16
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", kind, x.shape)], [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(part.numpy(), name) for name, part in parts.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    x = x.astype(np.float32 if kind == TensorProto.FLOAT else np.float16)
    return ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


@pytest.mark.parametrize("columns", [128, 200, 96])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "size", "error"), [(4, 32, 0.1), (4, 128, 0.125), (8, 128, 0.009), (8, 32, 0.008)])
def test_products_with_packed_groups(bits, size, error, symmetric, columns):
    random = torch.Generator().manual_seed(0)
    matrix = torch.randn(70, columns, generator=random)
    x = np.random.default_rng(0).standard_normal((9, columns)).astype(np.float32)
    expected = x @ matrix.numpy().T
    actual = product(Groups(bits, size, symmetric, torch.float32), matrix, x)
    assert np.linalg.norm(actual - expected) <= error * np.linalg.norm(expected)


@pytest.mark.parametrize("symmetric", [True, False])
def test_integers_are_kept_to_the_bit(symmetric):
    """A matrix that is such integers already comes back as it was."""
    random = np.random.default_rng(1)
    integers = random.integers(0, 16, (40, 2, 64))
    integers[..., 0], integers[..., 1] = 0, 15
    scales = random.uniform(0.01, 1, (40, 2, 1)).astype(np.float16)
    zeros = np.full((40, 2, 1), 8) if symmetric else random.integers(1, 15, (40, 2, 1))
    matrix = torch.from_numpy(((integers - zeros) * scales.astype(np.float32)).reshape(40, 128).astype(np.float32))
    data, found, *rest = packed(Groups(4, 64, symmetric, torch.float32), matrix)
    low, high = data.numpy() & 15, data.numpy() >> 4
    assert np.array_equal(np.stack([low, high], -1).reshape(40, 2, 64), integers)
    assert np.allclose(found.numpy(), scales[..., 0].astype(np.float32), rtol=1e-6)
    if not symmetric:
        assert np.array_equal(np.stack([rest[0].numpy() & 15, rest[0].numpy() >> 4], -1).reshape(40, 2), zeros[..., 0])


def test_the_search_beats_plain_rounding():
    random = torch.Generator().manual_seed(2)
    groups = torch.randn(200, 4, 128, generator=random) * torch.rand(200, 4, 1, generator=random)
    integers, scales, zeros = Groups(4, 128, True, torch.float32).round(groups)
    found = (integers.float() - zeros[..., None]) * scales[..., None]
    plain_scales = groups.abs().amax(-1, keepdim=True) / 7
    plain = (groups / plain_scales).round() * plain_scales
    assert (found - groups).square().sum() < 0.75 * (plain - groups).square().sum()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("value", [0.0, 3.0, -2.0, 1e-7])
def test_constant_groups(value, symmetric):
    matrix = torch.full((3, 64), value)
    actual = product(Groups(4, 32, symmetric, torch.float32), matrix, np.eye(64, dtype=np.float32))
    assert np.allclose(actual, value, rtol=0.01)


def test_channels_have_a_scale_each():
    matrix = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1e-4], [1.0], [1e3], [0.0], [7.0]])
    data, scales = packed(Channels(), matrix)
    found = (data.float() * scales).T
    assert ((found - matrix).abs() <= 0.51 * scales[:, None]).all()
    assert (data[:, [0, 1, 2, 4]].abs().amax(0) == 127).all()
    assert not found[3].any()


def test_large_matrices_are_packed_in_pieces():
    matrix = torch.randn(5000, 2048, generator=torch.Generator().manual_seed(0))
    packing = Groups(4, 128, True, torch.float32)
    pieces = [index for index, _ in packing.pack(5000, 2048, lambda start, stop: matrix[start:stop])]
    assert pieces == [*[0] * (len(pieces) - 1), 1]
    assert len(pieces) > 3


@pytest.mark.parametrize("packing", [Channels(), Groups(4, 32, True, torch.float32), Groups(4, 32, False, torch.float32)])
def test_many_blocks_are_packed_as_one(packing, monkeypatch):
    matrix = torch.randn(150, 70, generator=torch.Generator().manual_seed(0))
    whole, rounded = packed(packing, matrix), packing.rounded(matrix)
    monkeypatch.setattr("idefics2_onnx.export.packing._BLOCK", 3 * 4 * 70)  # 50 blocks, in four batches
    assert torch.equal(packing.rounded(matrix), rounded)
    assert all(torch.equal(part, other) for part, other in zip(packed(packing, matrix), whole, strict=True))
