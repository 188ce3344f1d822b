"""The processor's dict, as `generate` and `logits` take it and as the reference's `generate` hands it back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import PromptError
from .generation_options import GenerationOptions
from .padding import unpad_tiles
from .processor import Sample


def token_mask(input_ids: NDArray[Any], attention_mask: NDArray[Any] | None) -> NDArray[np.bool_]:
    """Which positions are tokens rather than padding, bool [batch, seq]; all without a mask."""
    if input_ids.ndim != 2:
        raise PromptError(f"input_ids has the shape {list(input_ids.shape)}. Give [batch, seq].")
    if attention_mask is None:
        return np.ones(input_ids.shape, bool)
    mask: NDArray[np.bool_] = np.asarray(attention_mask) != 0
    if mask.shape != input_ids.shape:
        raise PromptError(f"attention_mask has the shape {list(mask.shape)}, input_ids {list(input_ids.shape)}. Make them equal.")
    return mask


def samples_of(
    input_ids: NDArray[Any],
    attention_mask: NDArray[Any] | None = None,
    pixel_values: NDArray[Any] | None = None,
    pixel_attention_mask: NDArray[Any] | None = None,
) -> list[Sample]:
    """The processor's dict, padded on either side, → samples."""
    try:
        ids = np.asarray(input_ids)
    except ValueError as error:
        raise PromptError("input_ids has rows of different lengths. Pad them, and give an attention_mask.") from error
    if not np.issubdtype(ids.dtype, np.integer) or not ids.size:
        raise PromptError(
            f"input_ids has the dtype {ids.dtype} and the shape {list(ids.shape)}. Give whole numbers [batch, seq]."
        )
    mask = token_mask(ids, attention_mask)
    if pixel_values is None:
        tiles: list[Any] = [[] for _ in ids]
    else:
        pixel_values = np.asarray(pixel_values, np.float32)
        if pixel_values.ndim != 5 or pixel_values.shape[2] != 3 or len(pixel_values) != len(ids):
            raise PromptError(
                f"pixel_values has the shape {list(pixel_values.shape)} for {len(ids)} prompts. "
                "Give [batch, num_tiles, 3, height, width]."
            )
        expected = (*pixel_values.shape[:2], *pixel_values.shape[3:])
        if pixel_attention_mask is not None and np.shape(pixel_attention_mask) != expected:
            raise PromptError(
                f"pixel_attention_mask has the shape {list(np.shape(pixel_attention_mask))}. Give {list(expected)}."
            )
        tiles = unpad_tiles(pixel_values, None if pixel_attention_mask is None else np.asarray(pixel_attention_mask))
    return [Sample(row[own].tolist(), images) for row, own, images in zip(ids, mask, tiles, strict=True)]


def with_answers(input_ids: NDArray[Any], answers: list[list[int]], options: GenerationOptions) -> NDArray[np.int64]:
    """Prompts as they came with the answers behind them, int64 [batch, seq + longest answer]."""
    pad = options.eos_token_id[0] if options.pad_token_id is None and options.eos_token_id else options.pad_token_id or 0
    new = np.full((len(answers), max(map(len, answers))), pad, np.int64)
    for row, answer in enumerate(answers):
        new[row, : len(answer)] = answer
    return np.concatenate([input_ids.astype(np.int64), new], axis=1)
