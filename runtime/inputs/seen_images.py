"""IDEFICS: which image each token of a prompt sees.

Source: transformers 5.23, image_attention_mask_for_packed_input_ids_pt.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def seen_images(ids: NDArray[np.int64], image_token_id: int, end_token_id: int | None) -> NDArray[np.int64]:
    """The number of the image that each token of [batch, seq] sees, −1 for none.

    That is the last image whose token stands at or before it. Behind an end token, the end of a document, nothing is seen until
    the next image.
    """
    places = np.arange(ids.shape[1])
    is_image = ids == image_token_id
    last_image = np.maximum.accumulate(np.where(is_image, places, -1), axis=1)
    last_end = np.maximum.accumulate(np.where(ids == end_token_id, places, -1), axis=1)
    ended_before = np.concatenate([np.full((len(ids), 1), -1), last_end[:, :-1]], axis=1)
    seen: NDArray[np.int64] = np.where(ended_before < last_image, is_image.cumsum(1) - 1, -1)
    return seen


def one_hot(seen: NDArray[np.int64], num_images: int) -> NDArray[np.int64]:
    """image_attention_mask [batch, seq, num_images]: 1 where a token sees an image; images past the last are seen by none."""
    found: NDArray[np.int64] = (seen[:, :, None] == np.arange(num_images)).astype(np.int64)
    return found
