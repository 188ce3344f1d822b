"""Device names: which graph goes where."""

from __future__ import annotations

import pytest
from idefics2_onnx.runtime.devices.device import Device, graph_devices
from idefics2_onnx.runtime.errors import ProviderError


def test_graphs_go_where_they_are_sent():
    both = graph_devices("tensorrt:1")
    assert both["vision"] == Device("tensorrt", 1)
    assert both["embedding"] == both["decoder"] == both["prompt"] == Device("cuda", 1)
    assert graph_devices("openvino")["decoder"] == Device("cpu")
    assert graph_devices("cuda,vision=tensorrt") == graph_devices("tensorrt")
    assert graph_devices("tensorrt,decoder=tensorrt")["prompt"] == Device("tensorrt")
    assert graph_devices("cpu,vision=openvino") == graph_devices("openvino")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cuda,sound=cpu", "'sound=cpu' in the device 'cuda,sound=cpu' is not GRAPH=DEVICE"),
        ("cuda,vision", "is not GRAPH=DEVICE"),
        ("cuda,vision=cpu", "several memories"),
        ("cuda:1,vision=tensorrt", "several memories"),
        ("auto,vision=tensorrt", "several memories"),
        ("cpu,decoder=openvino", "more than images on OpenVINO"),
        ("cuda,vision=fast", "no device 'fast'"),
    ],
)
def test_places_that_do_not_work(name, expected):
    with pytest.raises(ProviderError, match=expected):
        graph_devices(name)
