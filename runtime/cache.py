"""The decoder's key/value cache: one buffer per layer and part, bound as past and as present at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..graphs.contract import ModelSizes, key_value_names

if TYPE_CHECKING:
    import onnxruntime as ort

BFLOAT16 = 16
"""ONNX's number of the type NumPy lacks."""


class KeyValueCache:
    """Keys and values of `batch` rows with room for `capacity` tokens each, and how many each row holds.

    Feeding the cache as arrays and taking it back would copy all of it at every token; with one buffer on both sides the
    graph writes the new token in place.
    """

    def __init__(self, sizes: ModelSizes, batch: int, capacity: int, dtype: type[np.generic] | None, memory: str) -> None:
        """`dtype` None stands for bfloat16; `memory` is ONNX Runtime's device name."""
        import onnxruntime as ort

        self.tokens: NDArray[np.int64] = np.zeros(batch, np.int64)
        """Tokens in each row."""
        shape = (batch, sizes.num_key_value_heads, capacity, sizes.head_dim)
        self._buffers: dict[str, Any] = {}
        for name in key_value_names(sizes.num_layers, "past_key_values"):
            if dtype is None:
                buffer = ort.OrtValue.ortvalue_from_shape_and_type(shape, BFLOAT16, memory, 0)
            else:
                # Zero at first: standard attention multiplies what lies behind a row's end by 0, which must not be NaN.
                buffer = ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype), memory, 0)
            self._buffers[name] = buffer

    def bind(self, binding: ort.IOBinding) -> None:
        """Bind every buffer as past input and as present output."""
        for name, buffer in self._buffers.items():
            binding.bind_ortvalue_input(name, buffer)
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), buffer)

    def mask(self, new: NDArray[np.int64], width: int) -> NDArray[np.int64]:
        """attention_mask int64 [batch, width] of a call that adds `new` tokens to each row."""
        return (np.arange(width) < (self.tokens + new)[:, None]).astype(np.int64)
