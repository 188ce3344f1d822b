"""The exact port of IDEFICS' image processor: one size for all images, without keeping their ratio.

Source: transformers 5.23, IdeficsImageProcessorPil. Equal to it bit for bit.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..checks import is_one_of
from ..errors import ImageError, PromptError
from ..parallel import in_parallel
from .image_processor import ImageProcessor, nested
from .options import CHECKS, ImageOptions
from .pixels import to_values
from .source import open_image

_IDEFICS2_ONLY = ("do_pad", "do_image_splitting")


@dataclass(frozen=True)
class IdeficsImageOptions(ImageOptions):
    """The reference's options under its names, with its defaults. Images are neither padded nor split."""

    size: dict[str, int] = dataclasses.field(default_factory=lambda: {"height": 224, "width": 224})
    resample: int = int(Image.Resampling.BICUBIC)
    image_mean: float | tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    image_std: float | tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    do_pad: bool = False

    def replace(self, **options: Any) -> Self:
        """These options with some changed; `image_size` is another name of a square `size`, and counts where both are given."""
        for name in _IDEFICS2_ONLY:
            if not is_one_of(options.get(name), (None, False)):
                raise PromptError(
                    f"{name} is {options[name]!r:.60}, but IDEFICS sees each image whole, in one size. Leave it out."
                )
        if not is_one_of(options.pop("image_num_channels", 3), (None, 3)):
            raise PromptError("image_num_channels is not 3, but IDEFICS sees images in three colours. Leave it out.")
        if options.get("transform") is not None:
            raise PromptError(
                "transform is the reference's option for training, and is not offered here. Give the image as it is."
            )
        given = {name: value for name, value in options.items() if name not in (*_IDEFICS2_ONLY, "image_size", "transform")}
        side = options.get("image_size")
        if side is not None:
            given["size"] = CHECKS["size"]("image_size", {"height": side, "width": side})
        if isinstance(given.get("size"), dict) and "shortest_edge" in given["size"]:
            raise PromptError(f"size is {given['size']!r:.60}, and IDEFICS' images have one. Give a height and a width.")
        return super().replace(**given)

    @property
    def image_size(self) -> int:
        """Height of the images."""
        return self.size["height"]

    def among(self, config: dict[str, Any]) -> dict[str, Any]:
        """What of a config file is an option; older ones have `image_size` alone."""
        found = super().among(config) | ({"image_size": config["image_size"]} if config.get("image_size") is not None else {})
        return {name: value for name, value in found.items() if name not in _IDEFICS2_ONLY}


class IdeficsImageProcessor(ImageProcessor):
    """Images → `pixel_values`.

    Options can be given here, per call, or set as attributes (`processor.resample = 2`).

    Args:
        allow_urls: whether images may be http(s) URLs, which are downloaded: True, or the names of hosts (`Hosts`). An app that
            passes on strangers' addresses names the hosts.
        options: the reference's, by name (`IdeficsImageOptions`).

    Raises:
        PromptError: an option does not exist or has an impossible value.
    """

    defaults = IdeficsImageOptions()
    reference = "IdeficsImageProcessor"
    upright = False
    can_split = False

    def __call__(self, images: Any, *, return_tensors: Literal["np"] | None = "np", **options: Any) -> NDArray[Any]:
        """Process one image or several; lists of images are put one behind another.

        A Pillow image stays as it is turned, and its transparency goes on white; files, bytes and URLs come upright.

        Returns:
            float32 [num_images, 3, height, width], the array itself, as in the reference.
        """
        if not is_one_of(return_tensors, ("np", None)):
            raise PromptError(f"return_tensors is {return_tensors!r:.60}. Leave it out: arrays are NumPy's.")
        flat = [image for own in nested(images) for image in own]
        if not flat:
            raise ImageError("There is no image. Give one or several.")
        chosen = self.options.replace(**options)
        pixels = [tile for own in self._tile_pixels(flat, chosen) for tile in own]
        values = in_parallel(lambda tile: to_values(tile, chosen.scale, chosen.mean_std), pixels)
        if len({image.shape for image in values}) > 1:
            raise ImageError("The images have different sizes and make no array. Set do_resize=True.")
        return np.stack(values)

    def fetch_images(self, images: Any) -> Any:
        """Open an image from its path or URL, or each of a list of them."""
        if isinstance(images, list | tuple):
            return [self.fetch_images(image) for image in images]
        return open_image(images, self.allow_urls)
