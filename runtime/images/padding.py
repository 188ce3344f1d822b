"""Tiles of different sizes → one padded array and its mask, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..parallel import in_parallel
from ..sample import Tile
from .pixels import MeanStd, TilePixels, to_values


def unpad_tiles(pixel_values: NDArray[Any], mask: NDArray[Any] | None) -> list[list[Tile]]:
    """The inverse of `pad_pixels`: whole padding tiles dropped, the others cut to their mask.

    Without a mask every tile is an image of full size, except those that are zero throughout, as in the reference.
    """
    prompts: list[list[Tile]] = []
    for row, tiles in enumerate(pixel_values):
        prompts.append([])
        for column, tile in enumerate(tiles):
            if mask is None:
                if tile.any():
                    prompts[-1].append(tile)
                continue
            rows, columns = mask[row, column].any(1).sum(), mask[row, column].any(0).sum()
            if rows and columns:
                prompts[-1].append(tile[:, :rows, :columns])
    return prompts


def pad_pixels(prompts: Sequence[Sequence[TilePixels]], scale: float | None, mean_std: MeanStd | None) -> dict[str, NDArray[Any]]:
    """Pixels of each prompt's tiles → values in one array, padded with zeros, and its mask.

    Returns:
        pixel_values: [batch, num_tiles, channels, height, width].
        pixel_attention_mask: int64 [batch, num_tiles, height, width].
    """
    tiles = [(row, column, tile) for row, own in enumerate(prompts) for column, tile in enumerate(own)]
    if not tiles:
        raise ImageError("There is no image in any prompt. Leave images out for text-only prompts.")
    channels, heights, widths = (set(sizes) for sizes in zip(*(tile.pixels.shape for *_, tile in tiles), strict=True))
    if len(channels) > 1:
        raise ImageError(f"The images have {sorted(channels)} channels. Set do_convert_rgb=True, or give images of one kind.")
    shape = (len(prompts), max(map(len, prompts)))
    one_pixel = (TilePixels(tile.pixels[:, :1, :1], tile.unit) for *_, tile in tiles)
    dtypes = {to_values(pixel, scale, mean_std).dtype for pixel in one_pixel}
    if len(tiles) < shape[0] * shape[1]:
        dtypes.add(np.dtype(np.float32))  # of the reference's padding tiles
    pixel_values = np.zeros((*shape, channels.pop(), max(heights), max(widths)), np.result_type(*dtypes))
    mask = np.zeros((*shape, *pixel_values.shape[3:]), np.int64)

    def fill(place: tuple[int, int, TilePixels]) -> None:
        row, column, tile = place
        _, height, width = tile.pixels.shape
        to_values(tile, scale, mean_std, out=pixel_values[row, column, :, :height, :width])
        mask[row, column, :height, :width] = 1

    in_parallel(fill, tiles)
    return {"pixel_values": pixel_values, "pixel_attention_mask": mask}
