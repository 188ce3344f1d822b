"""What the models' image processors share: options, and images → tiles of values.

Source: transformers 5.23, the Pil classes. Equal to them bit for bit. Sizes are planned on integers first; then each tile is cut
and resized, and its values are computed, tiles in parallel.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from PIL import Image

from ...graphs.errors import ModelFolderError
from ..errors import ImageError, PromptError
from ..folder import find_json, processor_folder
from ..outside.hosts import AllowUrls, Hosts
from ..parallel import in_parallel
from ..sample import Tile
from .file import upright_rgb
from .geometry import Box, Size, tile_boxes
from .options import ImageOptions
from .pixels import Picture, TilePixels, cut, picture_size, resize, to_picture, to_values, unresized
from .source import ImageSource, open_image

CONFIG = "preprocessor_config.json"


class ImageProcessor:
    """Images → values, by options that can be given here, per call, or set as attributes (`processor.resample = 2`).

    Args:
        allow_urls: whether images may be http(s) URLs, which are downloaded: True, or the names of hosts (`Hosts`). An app that
            passes on strangers' addresses names the hosts.
        options: the reference's, by name.

    Raises:
        PromptError: an option does not exist or has an impossible value.
    """

    defaults: ClassVar[ImageOptions]
    """The reference's, and by their type which options there are."""
    reference: ClassVar[str]
    """The reference's class, as preprocessor_config.json names it."""
    upright: ClassVar[bool]
    """Whether the model's processor turns Pillow images upright and drops their transparency."""
    can_split: ClassVar[bool]
    """Whether the model may see an image in parts."""

    def __init__(self, *, allow_urls: AllowUrls = False, **options: Any) -> None:
        self.allow_urls = allow_urls
        self.options = self.defaults.replace(**options)

    def __getattr__(self, name: str) -> Any:
        if name != "options" and hasattr(self.options, name):
            return getattr(self.options, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r:.60}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "options":
            super().__setattr__(name, value)
        elif name == "allow_urls":
            Hosts.read(value)
            super().__setattr__(name, value if isinstance(value, bool) else frozenset(value))
        else:
            self.options = self.options.replace(**{name: value})

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, subfolder: str = "", allow_urls: AllowUrls = False, **options: Any) -> Self:
        """From the preprocessor_config.json of a model folder or checkpoint, or the one nested in processor_config.json."""
        folder = processor_folder(folder, subfolder)
        nested_options: Any = find_json(folder, "processor_config.json").get("image_processor")
        config: Any = nested_options or find_json(folder, CONFIG)
        if not config or not isinstance(config, dict):
            raise ModelFolderError(f"{folder} has no image options in {CONFIG}. Give a model folder or a checkpoint.")
        try:
            processor = cls(**cls.defaults.among(config))
        except PromptError as error:
            place = f"{folder}'s {'processor_config.json' if nested_options else CONFIG}"
            raise ModelFolderError(
                f"{place} cannot be used: {error} Change that there, in a checkpoint, and export again."
            ) from error
        processor.options = processor.options.replace(**options)
        processor.allow_urls = allow_urls
        return processor

    def to_dict(self) -> dict[str, Any]:
        """The options as preprocessor_config.json holds them."""
        return {"image_processor_type": self.reference} | self.options.among(dataclasses.asdict(self.options))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write preprocessor_config.json, which the reference reads, too."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / CONFIG).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    def tiles(
        self,
        images: Sequence[ImageSource],
        options: ImageOptions | None = None,
        upright: bool = False,
        dtype: type[np.generic] = np.float32,
    ) -> list[list[Tile]]:
        """The tiles of each image, in order, unpadded; five an image with splitting, else one. Of a type to the caller's taste.

        `upright` first turns Pillow images upright by their EXIF orientation and drops their transparency, as files' pixels come.
        """
        chosen = options or self.options
        pixels = self._tile_pixels(images, chosen, upright)
        together = [tile for own in pixels for tile in own]
        values = iter(in_parallel(lambda tile: to_values(tile, chosen.scale, chosen.mean_std, dtype=dtype), together))
        return [[next(values) for _ in own] for own in pixels]

    def _tile_pixels(self, images: Sequence[ImageSource], options: ImageOptions, upright: bool = False) -> list[list[TilePixels]]:
        def open_picture(source: ImageSource) -> Picture:
            image = open_image(source, self.allow_urls)
            if upright and isinstance(image, Image.Image):
                image = upright_rgb(image)
            return to_picture(image, options.do_convert_rgb, options.input_data_format)

        # Once each: decoding one Pillow image or file from two threads at once breaks it.
        distinct = {id(image): image for image in images}
        opened = dict(zip(distinct, in_parallel(open_picture, distinct.values()), strict=True))
        pictures = [opened[id(image)] for image in images]
        boxes = [_boxes(picture_size(picture), options) for picture in pictures]
        jobs = [(picture, box) for picture, own in zip(pictures, boxes, strict=True) for box in own]
        pixels = iter(in_parallel(lambda job: _cut_and_resize(*job, options), jobs))
        return [[next(pixels) for _ in own] for own in boxes]


def _boxes(size: Size, options: ImageOptions) -> list[Box]:
    boxes = tile_boxes(size, options.do_image_splitting)
    # A quarter without width becomes a black tile, as in the reference; one without height has no ratio of sides.
    if options.do_resize and "shortest_edge" in options.size and any(box.size.height == 0 for box in boxes):
        raise ImageError(
            f"The image is {size} pixels, too small to split in four. "
            "Use a larger image, or turn splitting off with do_image_splitting=False (--no-split)."
        )
    return boxes


def _cut_and_resize(picture: Picture, box: Box, options: ImageOptions) -> TilePixels:
    part = cut(picture, box)
    return resize(part, options.tile_size(box), options.resample) if options.do_resize else unresized(part)


def nested(images: Any) -> list[list[ImageSource]]:
    """One image, a list of images, or one list per prompt → one list per prompt; 4-D arrays are lists of images."""
    first = images[0] if isinstance(images, list | tuple) and images else images
    if isinstance(first, np.ndarray) and first.ndim not in (3, 4):
        raise ImageError(f"An image array has the shape {list(first.shape)}. Give [height, width, channels] or channels first.")
    if isinstance(images, np.ndarray) and images.ndim == 4:
        return [list(images)]
    if not isinstance(images, list | tuple):
        return [[images]]
    if images and all(isinstance(own, list | tuple) for own in images):
        return [list(own) for own in images]
    if any(isinstance(own, list | tuple) for own in images):
        raise ImageError("images mixes images and lists of images. Give a list of images, or one list per prompt.")
    if isinstance(first, np.ndarray) and first.ndim == 4:
        return [list(own) for own in images]
    return [list(images)]


def flat_images(images: Any) -> list[ImageSource]:
    """One image or a list of images → a list of images."""
    lists = nested(images)
    if len(lists) != 1:
        raise ImageError(f"images has {len(lists)} lists of images. Give one list.")
    return lists[0]
