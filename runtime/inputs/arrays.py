"""The processor's dict, as `generate`, `logits` and `score` take it and as the reference's `generate` hands it back."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...graphs.contract import ModelSizes
from ..errors import PromptError
from ..image_tokens import count_tiles
from ..images.padding import unpad_tiles
from ..sample import Sample

INPUTS = ("input_ids", "attention_mask", "pixel_values", "pixel_attention_mask", "inputs_embeds", "image_features")
"""What the model takes in place of a prompt: the processor's dict, embeddings for its ids, features for its pixels."""


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


def tokens_of(inputs: dict[str, Any]) -> NDArray[Any]:
    """input_ids [batch, seq], or inputs_embeds [batch, seq, hidden] in their place."""
    if not isinstance(inputs, Mapping):
        raise PromptError(f"The inputs are {inputs!r:.60}. Give the processor's dict.")
    for name in inputs:
        if name not in INPUTS:
            raise PromptError(f"The inputs have {name!r:.60}, which the model does not take. Give {', '.join(INPUTS)}.")
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


def samples_of(inputs: dict[str, Any], sizes: ModelSizes) -> list[Sample]:
    """The processor's dict, padded on either side, → samples."""
    tokens = tokens_of(inputs)
    mask = token_mask(tokens, inputs.get("attention_mask"))
    pixels, features = inputs.get("pixel_values"), inputs.get("image_features")
    if tokens.ndim == 3:
        if pixels is not None or features is not None:
            raise PromptError("inputs_embeds have their images in them already. Leave pixel_values and image_features out.")
        check_finite(tokens, "inputs_embeds")
        return [Sample([], embeds=row[own].astype(np.float32)) for row, own in zip(tokens, mask, strict=True)]
    if pixels is not None and features is not None:
        raise PromptError("Both pixel_values and image_features were given. Give one of them.")
    ids = [row[own].tolist() for row, own in zip(tokens, mask, strict=True)]
    if features is not None:
        tiles = _shared_features(ids, array_of("image_features", features), sizes)
    elif pixels is not None:
        values = array_of("pixel_values", pixels)
        check_finite(values, "pixel_values")
        if values.dtype != np.float16:  # which graphs of fp16 take as it is
            values = values.astype(np.float32, copy=False)
        tiles = _unpadded(values, inputs.get("pixel_attention_mask"), len(ids))
    else:
        tiles = [[] for _ in ids]
    return [Sample(row, own) for row, own in zip(ids, tiles, strict=True)]


def array_of(name: str, value: Any) -> NDArray[Any]:
    """An array as NumPy makes it; PromptError if rows have different lengths."""
    try:
        return np.asarray(value)
    except ValueError as error:
        raise PromptError(f"{name} has rows of different lengths. Pad them, and give an attention_mask.") from error


def check_finite(values: NDArray[Any], name: str) -> None:
    """Raise PromptError unless an array holds finite real numbers."""
    real = np.issubdtype(values.dtype, np.floating) or np.issubdtype(values.dtype, np.integer)
    if not real or not np.isfinite(values).all():
        found = "numbers that are not finite" if real else f"the dtype {values.dtype}"
        raise PromptError(f"{name} has {found}. Give finite floats.")


def _unpadded(pixels: NDArray[Any], mask: Any, prompts: int) -> list[list[NDArray[Any]]]:
    if pixels.ndim != 5 or pixels.shape[2] != 3 or len(pixels) != prompts:
        raise PromptError(
            f"pixel_values has the shape {list(pixels.shape)} for {prompts} prompts. Give [batch, num_tiles, 3, height, width]."
        )
    if mask is None:
        return unpad_tiles(pixels, None)
    mask, expected = array_of("pixel_attention_mask", mask), (*pixels.shape[:2], *pixels.shape[3:])
    if mask.shape != expected:
        raise PromptError(f"pixel_attention_mask has the shape {list(mask.shape)}. Give {list(expected)}.")
    return unpad_tiles(pixels, mask)


def _shared_features(ids: list[list[int]], features: NDArray[Any], sizes: ModelSizes) -> list[list[NDArray[np.float32]]]:
    """Features of all prompts' tiles in order, [tiles, image_seq_len, hidden], shared out by the prompts' image tokens."""
    check_finite(features, "image_features")
    ends = list(accumulate((count_tiles(row, sizes) for row in ids), initial=0))
    if features.ndim != 3 or len(features) != ends[-1]:
        raise PromptError(
            f"image_features have the shape {list(features.shape)}, and the prompts' image tokens stand for {ends[-1]} tiles. "
            "Give [tiles, image_seq_len, hidden]."
        )
    return [list(features[start:stop].astype(np.float32)) for start, stop in pairwise(ends)]
