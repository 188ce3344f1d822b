"""A prompt as the model takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graphs.contract import ModelSizes
from .errors import PromptError, PromptTooLongError
from .image_tokens import count_tiles

Tile = NDArray[np.floating[Any]]
"""Values of one tile, unpadded: [3, height, width], float32, or float16 where the graph takes that."""


@dataclass(frozen=True)
class Sample:
    """One prompt, ready for the model: token ids and the images that they stand for or see, or embeddings."""

    ids: list[int]
    tiles: list[NDArray[np.floating[Any]]] = field(default_factory=list)
    """Pixels [3, height, width] or features [image_seq_len, hidden], in order: in Idefics2 what image tokens after `reused` stand
    for, in IDEFICS the images that tokens after `reused` see."""
    embeds: NDArray[np.float32] | None = None
    """[tokens, hidden] in place of ids, which are empty then, and in Idefics2 of tiles."""
    reused: int = 0
    """Tokens at the start whose keys and values are in the cache."""
    seen: NDArray[np.int64] | None = None
    """In IDEFICS, [tokens, tiles]: 1 where a token sees an image. None in Idefics2, and where there is no image."""

    @property
    def tokens(self) -> int:
        """Length of the prompt."""
        return len(self.ids) if self.embeds is None else len(self.embeds)

    def after(self, reused: int, sizes: ModelSizes) -> Sample:
        """This sample when its first tokens, in Idefics2 whole images only, are in the cache."""
        if self.seen is not None:
            needed = np.flatnonzero(self.seen[reused:].any(axis=0))
            return replace(self, tiles=[self.tiles[i] for i in needed], seen=self.seen[:, needed], reused=reused)
        passed = count_tiles(self.ids[self.reused : reused], sizes)
        return replace(self, tiles=self.tiles[passed:], reused=reused)

    def without_pixels(self) -> Sample:
        """This sample when its images have been encoded: as many tiles, which take no memory."""
        return replace(self, tiles=[np.empty((0, 0), np.float32)] * len(self.tiles))

    def check(self, sizes: ModelSizes, max_new_tokens: int) -> None:
        """Raise PromptError unless image tokens match tiles and everything fits the model."""
        if not self.tokens:
            raise PromptError("The prompt is empty: 0 tokens. Give some text.")
        if self.embeds is not None:
            if self.embeds.shape[1:] != (sizes.hidden_size,):
                raise PromptError(
                    f"inputs_embeds are {self.embeds.shape[-1]} wide, the model {sizes.hidden_size}. Take them from this model."
                )
        else:
            self._check_ids(sizes)
        for tile in self.tiles:
            _check_tile(tile, sizes)
        total = self.tokens + max_new_tokens
        if total > sizes.max_positions:
            raise PromptTooLongError(
                f"The prompt's {self.tokens} tokens and {max_new_tokens} new ones make {total}, more than the model's "
                f"{sizes.max_positions}. Use fewer or unsplit images, a shorter prompt or a smaller max_new_tokens."
            )

    def _check_ids(self, sizes: ModelSizes) -> None:
        if max(self.ids) >= sizes.vocab_size or min(self.ids) < 0:
            wrong = max(self.ids) if max(self.ids) >= sizes.vocab_size else min(self.ids)
            raise PromptError(f"The prompt has the token {wrong}, but the model knows {sizes.vocab_size}. Check the ids.")
        if self.seen is not None:
            return  # tokens see images by this mask, not by their ids
        found, needed = self.ids[self.reused :].count(sizes.image_token_id), len(self.tiles) * sizes.tokens_per_image
        if found != needed:
            raise PromptError(
                f"The prompt has {found} image tokens but {len(self.tiles)} tiles take {needed}. "
                "Use one processor for text and images."
            )


def _check_tile(tile: NDArray[Any], sizes: ModelSizes) -> None:
    """Raise PromptError unless a tile's features or pixels suit the model."""
    if tile.ndim == 2:
        check_features(tile, sizes)
    elif sizes.image_size is not None:
        if tile.shape != (3, sizes.image_size, sizes.image_size):
            raise PromptError(
                f"An image is {tile.shape[2]}×{tile.shape[1]} pixels, and this model takes {sizes.image_size} a side. Leave size "
                "and do_resize as the folder has them."
            )
    elif min(tile.shape[1:]) < sizes.patch_size:
        raise PromptError(f"An image is smaller than one patch of {sizes.patch_size} pixels. Resize images (do_resize=True).")
    elif max(tile.shape[1:]) // sizes.patch_size > sizes.max_patches:
        raise PromptError(
            f"An image is {tile.shape[2]}×{tile.shape[1]} pixels, and this model takes "
            f"{(sizes.max_patches + 1) * sizes.patch_size - 1} a side at most. Resize images (do_resize=True)."
        )


def check_features(features: NDArray[Any], sizes: ModelSizes) -> None:
    """Raise PromptError unless these are one tile's features of this model."""
    if features.shape != (sizes.image_seq_len, sizes.vision_width):
        raise PromptError(
            f"Image features of one tile have the shape {list(features.shape)}. "
            f"This model's are {[sizes.image_seq_len, sizes.vision_width]}: take them from its encode_images."
        )


def common_length(a: Sequence[object], b: Sequence[object]) -> int:
    """How many items two sequences begin with in common."""
    length = min(len(a), len(b))
    if a[:length] == b[:length]:
        return length
    return next(i for i in range(length) if a[i] != b[i])
