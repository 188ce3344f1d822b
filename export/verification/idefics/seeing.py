"""What IDEFICS' decoder takes besides tokens: which images each sees, and the images' keys and values."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ....graphs.contract import ModelSizes, key_value_names
from .. import cut
from ..cut import Cut


def whole_prompt(sizes: ModelSizes, embeds: Tensor, seen: Tensor, cross: dict[str, Tensor]) -> dict[str, Tensor]:
    """The decoder's inputs for a prompt [1, seq, hidden] that sees images as `seen` [seq, images] says."""
    return cut.whole_prompt(sizes, embeds) | {"image_attention_mask": seen[None]} | cross


def cross(folder: Path, sizes: ModelSizes, features: Tensor) -> dict[str, Tensor]:
    """Keys and values of images, by the folder's graph, from features [1, image_rows, width]."""
    names = key_value_names(sizes.num_cross_layers, "cross")
    found = Cut.open(folder, "cross").run({"image_features": features}, names)
    return dict(zip(names, map(torch.from_numpy, found), strict=True))
