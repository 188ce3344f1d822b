"""What numbers the reference computes with: the truth in float64, or a folder's own type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ...graphs.contract import Dtype
from ...graphs.idefics2.vision import SHRINK
from ..models.fake import CONNECTOR, TORCH_DTYPES
from .checkpoint import Stored


class PackedMatrix(Stored, Protocol):
    """A matrix as a folder holds it in small numbers."""

    def rounded(self, x: Tensor) -> Tensor:
        """Activations [..., columns] as its product rounds them."""
        ...


@dataclass(frozen=True)
class Arithmetic:
    """Types of weights and activations, parameter by parameter."""

    dtype: Dtype = "fp32"
    """The type of the folder."""
    exact: bool = False
    """Whether activations are float64 and weights as stored, or all is as the folder computes."""
    packed: Mapping[str, PackedMatrix] = field(default_factory=dict)
    """Matrices that stand in the place of the checkpoint's, by the parameter's name."""

    @property
    def name(self) -> str:
        """What to call it."""
        if self.exact:
            return "float64"
        return f"{self.dtype} with 8-bit products" if self.packed else self.dtype

    def activations(self, path: str) -> torch.dtype:
        """What comes out of a module. bf16 folders are compared in fp32, on weights rounded to bf16."""
        if self.exact:
            return torch.float64
        return torch.float16 if self.dtype == "fp16" and not path.startswith(CONNECTOR) else torch.float32

    def rounded(self, path: str, product: Tensor) -> Tensor:
        """What a product of weights gives for its sums: the connector of fp16 has fp16's digits in a wider range."""
        if self.dtype == "fp16" and not self.exact and path.startswith(CONNECTOR):
            return (product * SHRINK).half().float() / SHRINK
        return product.to(self.activations(path))

    def stored(self, numbers: Tensor) -> Tensor:
        """Weights as the folder stores them, widened: float64 for the truth, else float32."""
        wide = numbers.to(TORCH_DTYPES[self.dtype]).float()  # from there torch goes on faster than from narrow types
        return wide.double() if self.exact else wide
