"""An image among the tokens of a prompt: in Idefics2 for each of its tiles so many equal ids as the perceiver has latents.

Equal ids say nothing about the image, and an image's keys and values follow from all of its pixels. So what was read once serves
another prompt only in whole images, which the functions here count, tell apart and cut back to. In IDEFICS an image has one
token, and the tokens that see it follow from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..graphs.contract import ModelSizes

IMAGE, FAKE_IMAGE, END_OF_UTTERANCE = "<image>", "<fake_token_around_image>", "<end_of_utterance>"
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")
"""Names in tokenizer_config.json of those that templates and processors use."""
TILES_OF_SPLIT_IMAGE = 5


def tiles_per_image(split: bool) -> int:
    """Four quarters and the whole, or the whole alone."""
    return TILES_OF_SPLIT_IMAGE if split else 1


def tokens_with_fakes(tiles: int, image_seq_len: int) -> int:
    """How many tokens an image takes in a prompt: its own, with a fake one before each tile and after the last."""
    return tiles * (image_seq_len + 1) + 1


def image_places(ids: Sequence[int] | NDArray[np.int64], sizes: ModelSizes) -> NDArray[np.int64]:
    """Where the image tokens of a prompt are."""
    return np.flatnonzero(np.array(ids) == sizes.image_token_id)


def count_tiles(ids: Sequence[int], sizes: ModelSizes) -> int:
    """How many whole tiles the image tokens among these ids stand for."""
    return ids.count(sizes.image_token_id) // sizes.tokens_per_image


def told_apart(ids: Sequence[int], tiles: Sequence[bytes], sizes: ModelSizes) -> tuple[object, ...]:
    """The ids of a prompt, with each image token as a pair of its tile's digest and its number within the tile."""
    found: list[object] = []
    seen = 0
    for token in ids:
        if token == sizes.image_token_id:
            tile, number = divmod(seen, sizes.tokens_per_image)
            found.append((tiles[tile], number))
            seen += 1
        else:
            found.append(token)
    return tuple(found)


def told_by_sight(ids: Sequence[int], images: Sequence[bytes], seen: NDArray[np.int64]) -> tuple[object, ...]:
    """The ids of a prompt, each token that sees images ([tokens, images]) as text of its id and their digests.

    Such a prompt may be cut anywhere: its images have no places among its tokens.
    """
    names = [image.hex() for image in images]
    return tuple(
        " ".join([str(token), *(names[image] for image in np.flatnonzero(row))]) if row.any() else token
        for token, row in zip(ids, seen, strict=True)
    )


def whole_tiles(key: Sequence[object], length: int) -> int:
    """A length of what `told_apart` returns, cut back to the start of the tile that it ends inside."""
    token = key[length]
    return length - token[1] if isinstance(token, tuple) else length


def whole_images(places: NDArray[np.int64], per_image: int, length: int) -> tuple[int, int]:
    """A length of a prompt, cut back to the start of the image that it ends inside, and how many images it has then.

    Args:
        places: where the prompt's image tokens are.
        per_image: how many of them an image has, in all its tiles.
    """
    images, begun = divmod(int(np.searchsorted(places, length)), per_image)
    return (int(places[images * per_image]) if begun else length), images
