"""Where a model runs: what `device=` and --device take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from .errors import ProviderError

Provider = str | tuple[str, dict[str, Any]]
CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
Kind = Literal["auto", "cpu", "cuda", "tensorrt", "openvino"]
CARDS = ("cuda", "tensorrt")
DEVICES = "auto, cpu, cuda, tensorrt (cuda:1 and tensorrt:1 are the second card), openvino"


@dataclass(frozen=True)
class Device:
    """A kind of device and, of cards, its number."""

    kind: Kind
    index: int = 0

    @classmethod
    def parse(cls, name: str) -> Device:
        """Raises ProviderError if there is no such name."""
        kind, colon, number = name.partition(":")
        numbered = number.isascii() and number.isdecimal() if colon else True
        if kind not in get_args(Kind) or not numbered or (colon and kind not in CARDS):
            raise ProviderError(f"There is no device {name!r}. Choose one of {DEVICES}.")
        return cls(kind, int(number or 0))  # type: ignore[arg-type]

    @property
    def providers(self) -> list[Provider]:
        """ONNX Runtime's, by priority."""
        card: list[Provider] = [(CUDA, {"device_id": str(self.index)}), CPU]
        if self.kind == "tensorrt":
            return [(TENSORRT, {"device_id": str(self.index)}), *card]
        return card if self.kind == "cuda" else [CPU]


def provider_name(provider: Provider) -> str:
    return provider if isinstance(provider, str) else provider[0]


def card_of(providers: list[Provider]) -> int:
    """The number of the card that a provider list names."""
    options = (provider[1] for provider in providers if not isinstance(provider, str))
    return next((int(found["device_id"]) for found in options if "device_id" in found), 0)
