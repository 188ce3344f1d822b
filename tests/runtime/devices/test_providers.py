"""Lists of execution providers, on GPUs that are made up or missing."""

from __future__ import annotations

import pytest
from idefics2_onnx.runtime.devices import providers
from idefics2_onnx.runtime.devices.device import CPU, CUDA
from idefics2_onnx.runtime.errors import ProviderError
from idefics2_onnx.runtime.model import Idefics2


@pytest.mark.parametrize(
    "providers", [[], [(CPU,)], [(CPU, {}, 1)], [None], [(CUDA, {"device_id": ""})], [(CUDA, {"device_id": "first"})]]
)
def test_provider_lists_that_are_none(gpu, providers):
    with pytest.raises(ProviderError, match="Give a list of names, or of pairs"):
        Idefics2.from_pretrained(providers=providers)


def test_gpus_that_are_not_there(gpu, monkeypatch):
    for count, seen in ((1, "1 GPU"), (0, "no GPU")):
        monkeypatch.setattr(providers, "gpu_count", lambda count=count: count)
        with pytest.raises(ProviderError, match=f"no GPU number 5: CUDA sees {seen}. Choose"):
            Idefics2.from_pretrained(device="cuda:5")
    monkeypatch.setattr(providers, "gpu_count", lambda: 6)
    Idefics2.from_pretrained(device="cuda:5")
    assert gpu.opened["decoder"][0][1]["device_id"] == "5"
