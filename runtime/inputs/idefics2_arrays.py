"""Idefics2's dict of arrays, as its processor and the reference's make it, → samples."""

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
from .arrays import array_of, check_finite, pixels_of, token_mask, tokens_of

INPUTS = ("input_ids", "attention_mask", "pixel_values", "pixel_attention_mask", "inputs_embeds", "image_features")
"""What the model takes in place of a prompt: the processor's dict, embeddings for its ids, features for its pixels."""


def samples_of(inputs: Mapping[str, Any], sizes: ModelSizes) -> list[Sample]:
    """The processor's dict, padded on either side, → samples."""
    tokens = tokens_of(inputs, INPUTS)
    mask = token_mask(tokens, inputs.get("attention_mask"))
    pixels, features = pixels_of(inputs), inputs.get("image_features")
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
        tiles = _unpadded(pixels, inputs.get("pixel_attention_mask"), len(ids))
    else:
        tiles = [[] for _ in ids]
    return [Sample(row, own) for row, own in zip(ids, tiles, strict=True)]


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
