"""The exact port of Idefics2's image processor: split, resize, rescale, normalise, pad.

Source: transformers 5.23, Idefics2ImageProcessorPil. Equal to it bit for bit.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ..checks import is_one_of
from ..errors import ImageError, PromptError
from ..parallel import in_parallel
from .image_processor import ImageProcessor, nested
from .options import ImageOptions
from .padding import pad_pixels
from .pixels import to_values


class Idefics2ImageProcessor(ImageProcessor):
    """Images → `pixel_values` and `pixel_attention_mask`.

    Options can be given here, per call, or set as attributes (`processor.do_image_splitting = False`).

    Args:
        allow_urls: whether images may be http(s) URLs, which are downloaded: True, or the names of hosts (`Hosts`). An app that
            passes on strangers' addresses names the hosts.
        options: the reference's, by name (`ImageOptions`).

    Raises:
        PromptError: an option does not exist or has an impossible value.
    """

    defaults = ImageOptions()
    reference = "Idefics2ImageProcessor"
    upright = True
    can_split = True

    def __call__(
        self, images: Any, *, return_tensors: Literal["np"] | None = "np", upright: bool = False, **options: Any
    ) -> dict[str, Any]:
        """Process one image, a list of images, or one list per prompt (some of which may be empty).

        Returns:
            pixel_values: [batch, num_tiles, channels, height, width], padded with zeros right, below and by whole tiles;
                float32 unless neither rescaled nor normalised. With do_pad=False unpadded, and with return_tensors=None
                then a list of lists of tiles. `upright` is explained at `tiles`; the processor sets it.
            pixel_attention_mask: int64 [batch, num_tiles, height, width], 1 where there is an image; only with do_pad.
        """
        if not is_one_of(return_tensors, ("np", None)):
            raise PromptError(f"return_tensors is {return_tensors!r:.60}. Leave it out: arrays are NumPy's.")
        chosen = self.options.replace(**options)
        lists = nested(images)
        tiles = iter(self._tile_pixels([image for own in lists for image in own], chosen, upright))
        per_prompt = [[tile for _ in own for tile in next(tiles)] for own in lists]
        if chosen.do_pad:
            return pad_pixels(per_prompt, chosen.scale, chosen.mean_std)
        values = [in_parallel(lambda tile: to_values(tile, chosen.scale, chosen.mean_std), own) for own in per_prompt]
        if return_tensors is None:
            return {"pixel_values": values}
        shapes = {tile.shape for own in values for tile in own}
        if len(shapes) != 1 or len({len(own) for own in values}) != 1:
            raise ImageError(
                "The tiles have different sizes or numbers and make no array. Set do_pad=True or return_tensors=None."
            )
        return {"pixel_values": np.array(values)}
