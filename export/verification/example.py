"""The small input that graphs and reference are compared on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...graphs.contract import Manifest

STEPS = 2
"""Decoder calls after the prompt."""


@dataclass(frozen=True)
class Example:
    """Two images, one of them not a multiple of the patch where the model takes any, and two prompts of different lengths with
    their answers.
    """

    images: list[Tensor]
    """Pixels [3, height, width] each."""
    prompts: list[Tensor]
    """Token ids; the first holds both images, the second none."""
    answers: Tensor
    """Token ids [prompts, STEPS]."""
    varied: Tensor
    """Token ids: the first prompt without repetitions. A decoder that is given no features finds an image's tokens all alike."""

    @classmethod
    def for_model(cls, manifest: Manifest) -> Example:
        sizes, generator = manifest.model, torch.Generator().manual_seed(0)
        patch, side = sizes.patch_size, min(sizes.positions_per_side, 6)
        shapes = [(side * patch, max(1, side - 2) * patch), (max(1, side - 1) * patch + patch // 2, side * patch + patch - 1)]
        if sizes.image_size is not None:
            shapes = [(sizes.image_size, sizes.image_size)] * 2
        images = [torch.rand(3, *shape, generator=generator) * 2 - 1 for shape in shapes]

        def text(*shape: int) -> Tensor:
            ids = torch.randint(0, sizes.vocab_size, shape, generator=generator)
            return torch.where(ids == sizes.image_token_id, (ids + 1) % sizes.vocab_size, ids)

        image = torch.full((sizes.tokens_per_image,), sizes.image_token_id)
        room = max(2, min(8, (sizes.max_positions - 2 * sizes.tokens_per_image - STEPS) // 3))
        prompts = [torch.cat([text(room), image, text(room), image, text(room)]), text(room)]
        return cls(images, prompts, text(len(prompts), STEPS), prompts[0].unique_consecutive())
