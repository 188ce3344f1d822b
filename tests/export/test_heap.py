"""Memory for large tensors."""

from __future__ import annotations

import sys

import pytest
import torch
from idefics2_onnx.export.heap import empty, in_large_pages


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8])
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (3, 1 << 12, 7)])
def test_a_tensor_of_any_shape_and_type(shape, dtype):
    found = empty(shape, dtype)
    assert (found.shape, found.dtype, found.is_contiguous()) == (shape, dtype, True)
    assert torch.equal(found.fill_(3), torch.full(shape, 3, dtype=dtype))


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's")
def test_large_pages_are_asked_for_beside_what_the_user_asks_of_the_library(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert in_large_pages() == {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
    assert in_large_pages() == {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1"}
