"""Which tokens of a row count when it is scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import PromptError
from ..sample import Sample, common_length
from .arrays import array_of

IGNORED = -100
"""A label that does not count. Source: the reference's loss, ForCausalLMLoss."""


def default_labels(samples: Sequence[Sample], image_token_id: int) -> list[list[int]]:
    """Every token but those that stand for images."""
    if any(sample.embeds is not None for sample in samples):
        raise PromptError("inputs_embeds have no tokens to score. Give labels.")
    return [[IGNORED if token == image_token_id else token for token in sample.ids] for sample in samples]


def check_labels(labels: NDArray[Any], mask: NDArray[np.bool_], vocab_size: int) -> list[list[int]]:
    """Labels [batch, seq] of the tokens that are not padding; PromptError for others than the vocabulary's and −100."""
    labels = array_of("labels", labels)
    if labels.shape != mask.shape or not np.issubdtype(labels.dtype, np.integer):
        raise PromptError(
            f"labels has the dtype {labels.dtype} and the shape {list(labels.shape)}. Give int64 {list(mask.shape)}."
        )
    wrong = labels[(labels != IGNORED) & ((labels < 0) | (labels >= vocab_size))]
    if wrong.size:
        raise PromptError(f"labels has {wrong[0]}, but the model knows {vocab_size} tokens. Give {IGNORED} where none counts.")
    return [row[own].tolist() for row, own in zip(labels, mask, strict=True)]


def answer_labels(prompts: Sequence[Sequence[int]], samples: Sequence[Sample], end_tokens: Sequence[int]) -> list[list[int]]:
    """The tokens of samples after those of their prompts, up to the last end token, after which a template may go on."""
    labels = []
    for prompt, sample in zip(prompts, samples, strict=True):
        start = common_length(prompt, sample.ids)
        ends = [i + 1 for i, token in enumerate(sample.ids) if token in end_tokens and i >= start]
        stop = ends[-1] if ends else len(sample.ids)
        labels.append([IGNORED] * start + sample.ids[start:stop] + [IGNORED] * (len(sample.ids) - stop))
    return labels
