"""Calls of CUDA's own library."""

from __future__ import annotations

import mmap

import onnxruntime as ort
import pytest
from idefics2_onnx.runtime.errors import ProviderError
from idefics2_onnx.runtime.memory import cuda_runtime
from idefics2_onnx.runtime.model import Idefics2

EXAMPLE = "What is in this picture?"


def test_pinned_memory_is_given_back(gpu):
    calls, forgotten = [], []
    gpu.cuda.cudaHostRegister = lambda address, size, flags: calls.append((address.value, size.value)) or 0
    gpu.cuda.cudaHostUnregister = lambda address: calls.append(address.value)
    array = cuda_runtime.pinned((2, 5), 1)
    place_of_it = array.ctypes.data
    assert calls == [(place_of_it, 40)]
    assert place_of_it % mmap.PAGESIZE == 0  # with nothing else in its pages, which CUDA would pin as well
    assert gpu.cuda.devices == [1]
    part = array[1:]
    del array
    assert len(calls) == 1
    del part
    assert calls[1:] == [place_of_it]
    gpu.cuda.cudaHostRegister = lambda *_: 2
    gpu.cuda.cudaGetLastError = lambda: forgotten.append(2)
    assert cuda_runtime.pinned((2, 5), 1).shape == (2, 5)
    assert len(calls) == 2
    assert forgotten == [2]


def test_what_cuda_refuses_is_an_error(gpu, exported, monkeypatch):
    model = Idefics2.from_pretrained(exported("plain"), "cuda")
    gpu.cuda.cudaMemset = lambda *_: 2
    with pytest.raises(ProviderError, match=r"CUDA could not copy or clear memory of the GPU \(out of memory\)"):
        model.generate(EXAMPLE, max_new_tokens=1)
    monkeypatch.setattr(ort.OrtValue, "ortvalue_from_shape_and_type", lambda *_: 1 / 0)
    with pytest.raises(ProviderError, match="The GPU gave no memory for"):
        model.generate(EXAMPLE, max_new_tokens=1)
