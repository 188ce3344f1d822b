"""Where a model runs: what `device=` and --device take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from ...graphs.contract import GRAPHS, GraphName
from ..errors import ProviderError

Provider = str | tuple[str, dict[str, Any]]
CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
Kind = Literal["auto", "cpu", "cuda", "tensorrt", "openvino"]
Memory = Literal["cpu", "cuda"]
GPU_KINDS = ("cuda", "tensorrt")
DEVICES = (
    "auto, cpu, cuda, tensorrt (images on TensorRT, the rest on CUDA; cuda:1 and tensorrt:1 are the second GPU), "
    "openvino (images on OpenVINO, the rest as on cpu)"
)
_BESIDE: dict[Kind, Kind] = {"tensorrt": "cuda", "openvino": "cpu"}
"""Devices that are best at images, and where the other graphs run beside them."""


@dataclass(frozen=True)
class Device:
    """A kind of device and, of GPUs, its number."""

    kind: Kind
    index: int = 0

    @classmethod
    def parse(cls, name: str) -> Device:
        """Raises ProviderError if there is no such name."""
        kind, colon, number = name.partition(":")
        numbered = number.isascii() and number.isdecimal() and len(number) <= 3 if colon else True
        if kind not in get_args(Kind) or not numbered or (colon and kind not in GPU_KINDS):
            raise ProviderError(f"There is no device {name!r:.60}. Choose one of {DEVICES}.")
        return cls(kind, int(number or 0))  # type: ignore[arg-type]

    @property
    def memory(self) -> Memory:
        """Where its numbers live."""
        return "cuda" if self.kind in GPU_KINDS else "cpu"


def graph_devices(name: str) -> dict[GraphName, Device]:
    """Where each graph runs, by a device's name and, after commas, others for single graphs: "cuda,vision=tensorrt".

    Raises:
        ProviderError: no such device or graph, or graphs that could not hand each other their numbers.
    """
    if not isinstance(name, str):
        raise ProviderError(f"The device is {name!r:.60}. Choose one of {DEVICES}.")
    first, *others = name.split(",")
    device = Device.parse(first)
    beside = Device(_BESIDE.get(device.kind, device.kind), device.index)
    found: dict[GraphName, Device] = {graph: device if graph == "vision" else beside for graph in (*GRAPHS, "cross", "prompt")}
    for other in others:
        graph, equals, own = other.partition("=")
        if graph not in GRAPHS or not equals:
            raise ProviderError(
                f"{other!r:.60} in the device {name!r:.60} is not GRAPH=DEVICE. The graphs are {', '.join(GRAPHS)}."
            )
        found[graph] = Device.parse(own)
        if graph == "decoder":
            found["prompt"] = found["cross"] = found[graph]
    if others and (any(one.kind == "auto" for one in found.values()) or len({(d.memory, d.index) for d in found.values()}) > 1):
        raise ProviderError(
            f"The device {name!r:.60} spreads the graphs over several memories. Keep to one GPU, or to the processor."
        )
    if any(one.kind == "openvino" for graph, one in found.items() if graph != "vision"):
        raise ProviderError(f"The device {name!r:.60} has more than images on OpenVINO. Use vision=openvino.")
    return found


def provider_name(provider: Provider) -> str:
    return provider if isinstance(provider, str) else provider[0]


def on_gpu(number: int) -> dict[str, Any]:
    """The provider option that names a GPU; of the first one none, because ONNX Runtime warns of every number."""
    return {"device_id": str(number)} if number else {}


def gpu_of(providers: list[Provider]) -> int:
    """The number of the GPU that a provider list names."""
    for provider in providers:
        if not isinstance(provider, str) and provider[0] in (CUDA, TENSORRT) and "device_id" in provider[1]:
            return int(provider[1]["device_id"])
    return 0
