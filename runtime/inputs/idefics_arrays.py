"""IDEFICS' dict of arrays, as its processor and the reference's make it, → samples."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...graphs.contract import ModelSizes
from ..errors import PromptError
from ..image_tokens import count_tiles
from ..sample import Sample
from .arrays import array_of, check_finite, pixels_of, token_mask, tokens_of

INPUTS = ("input_ids", "attention_mask", "pixel_values", "image_attention_mask", "inputs_embeds", "image_features")
"""What the model takes in place of a prompt: the processor's dict, embeddings for its ids, features for its pixels."""


def samples_of(inputs: Mapping[str, Any], sizes: ModelSizes) -> list[Sample]:
    """The processor's dict, padded on either side, → samples with the images that any of their tokens sees."""
    tokens = tokens_of(inputs, INPUTS)
    mask = token_mask(tokens, inputs.get("attention_mask"))
    seen = _seen(inputs.get("image_attention_mask"), tokens.shape[:2])
    pixels, features = pixels_of(inputs), inputs.get("image_features")
    if pixels is not None and features is not None:
        raise PromptError("Both pixel_values and image_features were given. Give one of them.")
    images: list[Any] = [[] for _ in tokens]
    if pixels is not None:
        images = _images(pixels, seen)
    elif features is not None:
        images = _shared_features(tokens, mask, array_of("image_features", features), sizes)
    if seen is None:
        if any(map(len, images)):
            raise PromptError(
                "Images were given without an image_attention_mask. Give the processor's, which says who sees what."
            )
        seen = np.zeros((*tokens.shape[:2], 0), bool)
    if tokens.ndim == 3:
        check_finite(tokens, "inputs_embeds")
    samples = []
    for row, own in enumerate(mask):
        sees = seen[row][own]
        used = np.flatnonzero(sees.any(0))
        if len(used) and used[-1] >= len(images[row]):
            raise PromptError(
                f"image_attention_mask has tokens of prompt {row} see image {used[-1]}, but it has {len(images[row])}. "
                "Give the images of the processor that made the mask."
            )
        given: dict[str, Any] = {"seen": sees[:, used].astype(np.int64)}
        if tokens.ndim == 3:
            given["embeds"] = tokens[row][own].astype(np.float32)
        samples.append(Sample([] if tokens.ndim == 3 else tokens[row][own].tolist(), [images[row][i] for i in used], **given))
    return samples


def _seen(mask: Any, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """image_attention_mask [batch, seq, num_images] as true and false."""
    if mask is None:
        return None
    found: NDArray[np.bool_] = array_of("image_attention_mask", mask) != 0
    if found.ndim != 3 or found.shape[:2] != shape:
        raise PromptError(f"image_attention_mask has the shape {list(found.shape)}. Give {[*shape, 'num_images']}.")
    return found


def _images(pixels: NDArray[Any], seen: NDArray[np.bool_] | None) -> list[Any]:
    if pixels.ndim != 5 or pixels.shape[2] != 3 or (seen is not None and seen.shape[::2] != pixels.shape[:2]):
        expected = "" if seen is None else f", of {seen.shape[0]} prompts and {seen.shape[2]} images"
        raise PromptError(
            f"pixel_values has the shape {list(pixels.shape)}. Give [batch, num_images, 3, height, width]{expected}."
        )
    return list(pixels)


def _shared_features(
    tokens: NDArray[Any], mask: NDArray[np.bool_], features: NDArray[Any], sizes: ModelSizes
) -> list[list[NDArray[np.float32]]]:
    """Features of all prompts' images in order, [images, image_seq_len, width], shared out by the prompts' image tokens."""
    check_finite(features, "image_features")
    if tokens.ndim == 3:
        raise PromptError("image_features go with input_ids, whose image tokens share them out. Give pixel_values instead.")
    counts = (count_tiles(row[own].tolist(), sizes) for row, own in zip(tokens, mask, strict=True))
    ends = list(accumulate(counts, initial=0))
    if features.ndim != 3 or len(features) != ends[-1]:
        raise PromptError(
            f"image_features have the shape {list(features.shape)}, and the prompts have {ends[-1]} image tokens. "
            "Give [images, image_seq_len, width]."
        )
    return [list(features[start:stop].astype(np.float32)) for start, stop in pairwise(ends)]
