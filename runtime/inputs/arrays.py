"""The processors' dicts, as `generate`, `logits` and `score` take them: what the models' have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import PromptError


class Inputs(dict[str, Any]):
    """What the processor returns: arrays by name, as keys and as attributes, like the reference's BatchFeature."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"The inputs have no {name!r:.60}, only {', '.join(self)}.") from None

    def to(self, *_: Any, **__: Any) -> Inputs:
        """Themselves: the model brings arrays to its device."""
        return self


def token_mask(tokens: NDArray[Any], attention_mask: NDArray[Any] | None) -> NDArray[np.bool_]:
    """Which positions of [batch, seq, ...] are tokens rather than padding, bool [batch, seq]; all without a mask."""
    shape = tokens.shape[:2]
    if attention_mask is None:
        return np.ones(shape, bool)
    mask: NDArray[np.bool_] = array_of("attention_mask", attention_mask) != 0
    if mask.shape != shape:
        raise PromptError(f"attention_mask has the shape {list(mask.shape)}, the tokens {list(shape)}. Make them equal.")
    return mask


def tokens_of(inputs: Mapping[str, Any], names: Sequence[str]) -> NDArray[Any]:
    """input_ids [batch, seq], or inputs_embeds [batch, seq, hidden] in their place, of a dict with no other names than these."""
    if not isinstance(inputs, Mapping):
        raise PromptError(f"The inputs are {inputs!r:.60}. Give the processor's dict.")
    for name in inputs:
        if name not in names:
            raise PromptError(f"The inputs have {name!r:.60}, which the model does not take. Give {', '.join(names)}.")
    given = {name: inputs.get(name) for name in ("input_ids", "inputs_embeds")}
    if all(value is None for value in given.values()):
        raise PromptError("The inputs have no input_ids. Give the processor's dict for text.")
    if all(value is not None for value in given.values()):
        raise PromptError("Both input_ids and inputs_embeds were given. Give one of them.")
    name, value = next((name, value) for name, value in given.items() if value is not None)
    tokens = array_of(name, value)
    kind, shape = (np.integer, "[batch, seq]") if name == "input_ids" else (np.floating, "[batch, seq, hidden]")
    if not np.issubdtype(tokens.dtype, kind) or not tokens.size or tokens.ndim != shape.count(",") + 1:
        numbers = "whole numbers" if name == "input_ids" else "floats"
        raise PromptError(f"{name} has the dtype {tokens.dtype} and the shape {list(tokens.shape)}. Give {numbers} {shape}.")
    return tokens


def array_of(name: str, value: Any) -> NDArray[Any]:
    """An array as NumPy makes it; PromptError if rows have different lengths."""
    try:
        return np.asarray(value)
    except ValueError as error:
        raise PromptError(f"{name} has rows of different lengths. Pad them, and give an attention_mask.") from error


def check_finite(values: NDArray[Any], name: str) -> None:
    """Raise PromptError unless an array holds finite real numbers."""
    real = np.issubdtype(values.dtype, np.floating) or np.issubdtype(values.dtype, np.integer)
    if not real or not _all_finite(values):
        found = "numbers that are not finite" if real else f"the dtype {values.dtype}"
        raise PromptError(f"{name} has {found}. Give finite floats.")


def _all_finite(values: NDArray[Any]) -> bool:
    if values.dtype != np.float16 or not values.size:
        return bool(np.isfinite(values).all())
    # Without its sign, a half that is no number is at least infinity. NumPy's own test is eight times as slow: it widens each.
    return int((np.ascontiguousarray(values).view(np.uint16) << 1).max()) < 0xF800


def pixels_of(inputs: Mapping[str, Any]) -> NDArray[Any] | None:
    """Finite pixel_values, float16 where they are and else float32."""
    if inputs.get("pixel_values") is None:
        return None
    values = array_of("pixel_values", inputs["pixel_values"])
    check_finite(values, "pixel_values")
    return values if values.dtype == np.float16 else values.astype(np.float32, copy=False)  # graphs of fp16 take it as it is
