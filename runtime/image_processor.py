"""The exact port of Idefics2's image processor: split, resize, rescale, normalise, pad.

Source: transformers 5.23, Idefics2ImageProcessorPil. Equal to it bit for bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .errors import ImageError, ModelFolderError, PromptError
from .folder import read_json_object
from .geometry import Box, Size, resized, tile_boxes
from .image_source import ImageSource, load_image, nested

Tile = NDArray[np.float32]
"""Pixels of one tile, unpadded: float32 [3, height, width]."""
_BILINEAR = int(Image.Resampling.BILINEAR)
_MEAN = _STD = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class ImageOptions:
    """The reference's options under its names, with its defaults."""

    do_convert_rgb: bool = True
    do_resize: bool = True
    size: dict[str, int] = dataclasses.field(default_factory=lambda: {"shortest_edge": 378, "longest_edge": 980})
    resample: int = _BILINEAR
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: tuple[float, ...] = _MEAN
    image_std: tuple[float, ...] = _STD
    do_pad: bool = True
    do_image_splitting: bool = False

    def replace(self, **options: Any) -> ImageOptions:
        """These options with some changed; PromptError names one that does not exist or cannot be."""
        names = {field.name for field in dataclasses.fields(self)}
        for name, value in options.items():
            if name not in names:
                raise PromptError(f"There is no image option {name!r}. The options are {', '.join(sorted(names))}.")
            if name in ("image_mean", "image_std"):
                options[name] = tuple(value) if isinstance(value, list | tuple) else (value,) * 3
        changed = dataclasses.replace(self, **options)
        if not ({"shortest_edge", "longest_edge"} <= set(changed.size) or {"height", "width"} <= set(changed.size)):
            raise PromptError(f"size is {changed.size}. Give shortest_edge and longest_edge, or height and width.")
        if not changed.do_convert_rgb:
            raise PromptError("do_convert_rgb=False is not supported: the model takes RGB. Leave it True.")
        return changed


class Idefics2ImageProcessor:
    """Images → `pixel_values` and `pixel_attention_mask`.

    Args:
        options: the reference's, by name (`ImageOptions`).

    Raises:
        PromptError: an option does not exist or has an impossible value.
    """

    def __init__(self, **options: Any) -> None:
        self.options = ImageOptions().replace(**options)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Idefics2ImageProcessor:
        """From a model folder's or checkpoint's preprocessor_config.json (or the one nested in processor_config.json)."""
        folder = Path(folder)
        config: dict[str, Any] = {}
        if (folder / "processor_config.json").is_file():
            config = read_json_object(folder / "processor_config.json").get("image_processor") or {}
        if not config:
            if not (folder / "preprocessor_config.json").is_file():
                raise ModelFolderError(f"{folder} has no preprocessor_config.json. Give a model folder or a checkpoint.")
            config = read_json_object(folder / "preprocessor_config.json")
        # Checkpoints carry keys that belong to other classes (processor_class, image_processor_type, …).
        known = {field.name for field in dataclasses.fields(ImageOptions)}
        return cls(**{name: value for name, value in config.items() if name in known and value is not None})

    def __call__(
        self, images: ImageSource | Sequence[ImageSource] | Sequence[Sequence[ImageSource]], **options: Any
    ) -> dict[str, NDArray[Any]]:
        """Process one image, the images of one sample, or a list of samples.

        Returns:
            pixel_values: float32 [batch, num_tiles, 3, height, width], padded with zeros right, below and by whole tiles.
            pixel_attention_mask: int64 [batch, num_tiles, height, width], 1 where there is an image.
        """
        chosen = self.options.replace(**options)
        samples = [[tile for image in sample for tile in self.tiles(image, chosen)] for sample in nested(images)]
        return pad_tiles(samples)

    def tiles(self, image: ImageSource, options: ImageOptions | None = None) -> list[Tile]:
        """The tiles of one image, in order, unpadded; five with splitting, else one."""
        options = options or self.options
        pixels = load_image(image)
        size = Size(pixels.height, pixels.width)
        boxes = tile_boxes(size, options.do_image_splitting)
        if any(0 in box.size for box in boxes):
            raise ImageError(
                f"The image is {size} pixels, too small to split in four. "
                "Use a larger image, or turn splitting off with do_image_splitting=False (--no-split)."
            )
        return [_tile(pixels, box, options) for box in boxes]


def pad_tiles(samples: Sequence[Sequence[Tile]]) -> dict[str, NDArray[Any]]:
    """Tiles of each sample → one padded array and its mask."""
    sizes = [tile.shape[1:] for sample in samples for tile in sample]
    if not sizes:
        raise ImageError("There is no image in any sample. Leave images out for text-only prompts.")
    height, width = (max(axis) for axis in zip(*sizes, strict=True))
    shape = (len(samples), max(map(len, samples)))
    pixel_values = np.zeros((*shape, 3, height, width), np.float32)
    mask = np.zeros((*shape, height, width), np.int64)
    for row, sample in enumerate(samples):
        for column, tile in enumerate(sample):
            _, h, w = tile.shape
            pixel_values[row, column, :, :h, :w] = tile
            mask[row, column, :h, :w] = 1
    return {"pixel_values": pixel_values, "pixel_attention_mask": mask}


def unpad_tiles(pixel_values: NDArray[Any], mask: NDArray[Any] | None) -> list[list[Tile]]:
    """The inverse of `pad_tiles`: whole padding tiles dropped, the others cut to their mask.

    Without a mask every tile is an image of full size, except those that are zero throughout, as in the reference.
    """
    samples: list[list[Tile]] = []
    for row, tiles in enumerate(pixel_values):
        samples.append([])
        for column, tile in enumerate(tiles):
            if mask is None:
                if tile.any():
                    samples[-1].append(tile)
                continue
            rows, columns = mask[row, column].any(1).sum(), mask[row, column].any(0).sum()
            if rows and columns:
                samples[-1].append(tile[:, :rows, :columns])
    return samples


def _tile(image: Image.Image, box: Box, options: ImageOptions) -> Tile:
    if box.size != (image.height, image.width):
        image = image.crop(box)
    if options.do_resize:
        size = box.size
        if "shortest_edge" in options.size:
            size = resized(size, options.size["shortest_edge"], options.size["longest_edge"])
        else:
            size = Size(options.size["height"], options.size["width"])
        image = image.resize((size.width, size.height), Image.Resampling(options.resample))
    table = _value_table(
        options.rescale_factor if options.do_rescale else None,
        (options.image_mean, options.image_std) if options.do_normalize else None,
    )
    bytes_ = np.asarray(image)
    pixels = np.empty((3, *bytes_.shape[:2]), np.float32)
    for channel in range(3):
        np.take(table[channel], bytes_[:, :, channel], out=pixels[channel])
    return pixels


@lru_cache(maxsize=16)
def _value_table(
    rescale_factor: float | None, mean_std: tuple[tuple[float, ...], tuple[float, ...]] | None
) -> NDArray[np.float32]:
    """float32 [3, 256]: what each byte of each channel becomes.

    The reference rescales in float64, casts, and normalises in float32; float32 throughout gives other values for half of the
    bytes.
    """
    values = np.arange(256, dtype=np.float64)
    scaled = (values * rescale_factor if rescale_factor is not None else values).astype(np.float32)
    table = np.tile(scaled, (3, 1))
    if mean_std is not None:
        mean, std = (np.array(part, dtype=np.float32)[:, None] for part in mean_std)
        table = (table - mean) / std
    return table
