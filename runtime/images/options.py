"""The image processor's options: the reference's names, its defaults, and what each value may be."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, Self

from PIL import Image

from ..checks import Check, checked, choice, flag, is_whole
from ..errors import PromptError
from .geometry import Box, Size, resized
from .pixels import Layout, MeanStd

MAX_PIXELS = 1 << 26
"""Most pixels of a tile: 805 MB of float32. The real model's have less than a million."""
_LARGEST = 1e30
"""Below what float32 holds, with room for a division; NaN is not below it either."""


@dataclass(frozen=True)
class ImageOptions:
    """The reference's options under its names, with its defaults."""

    do_convert_rgb: bool = True
    do_resize: bool = True
    size: dict[str, int] = dataclasses.field(default_factory=lambda: {"shortest_edge": 378, "longest_edge": 980})
    """shortest_edge and longest_edge of a tile, or its height and width."""
    resample: int = int(Image.Resampling.BILINEAR)
    """One of Pillow's filters, by number."""
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: float | tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: float | tuple[float, ...] = (0.5, 0.5, 0.5)
    do_pad: bool = True
    do_image_splitting: bool = False
    data_format: Literal["channels_first", "channels_last"] | None = None
    """Accepted and without effect, as in the reference: outputs have their channels first."""
    input_data_format: Layout | None = None
    """Where an array's channels are; None infers it."""

    def replace(self, **options: Any) -> Self:
        """These options with some changed; PromptError names one that does not exist or cannot be."""
        return dataclasses.replace(self, **checked("image option", CHECKS, options))

    def among(self, config: dict[str, Any]) -> dict[str, Any]:
        """What of a config file is an option: those also hold keys of other classes (processor_class, …), and nulls."""
        return {name: value for name, value in config.items() if name in CHECKS and value is not None}

    @property
    def scale(self) -> float | None:
        """The factor, or None without rescaling."""
        return self.rescale_factor if self.do_rescale else None

    @property
    def mean_std(self) -> MeanStd | None:
        """Mean and standard deviation, or None without normalising."""
        return (self.image_mean, self.image_std) if self.do_normalize else None

    def tile_size(self, box: Box) -> Size:
        """Size of the tile that a box of the image becomes; PromptError if nobody has the memory for it."""
        if not self.do_resize:
            return box.size
        if "height" in self.size:
            size = Size(self.size["height"], self.size["width"])
        else:
            size = resized(box.size, self.size["shortest_edge"], self.size["longest_edge"])
        # Pillow changes the width first or, where that loses more, the height; the former makes more of it.
        if size.width * max(size.height, box.size.height) > MAX_PIXELS:
            raise PromptError(f"size is {self.size!r:.80}, which makes {size} pixels of {box.size}. Give smaller edges.")
        return size


def _numbers(name: str, value: Any) -> float | tuple[float, ...]:
    numbers = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not numbers or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        raise PromptError(f"{name} is {value!r:.60}. Give a number, or one per channel.")
    if not all(abs(n) < _LARGEST for n in numbers) or (name == "image_std" and 0 in numbers):
        raise PromptError(f"{name} is {value!r:.60}. Give finite numbers{', other than 0' * (name == 'image_std')}.")
    return numbers if isinstance(value, list | tuple) else numbers[0]


def _size(name: str, value: Any) -> dict[str, int]:
    if isinstance(value, list | tuple) and len(value) == 2:
        value = {"height": value[0], "width": value[1]}
    keys = set(value) if isinstance(value, dict) else set()
    positive = keys and all(is_whole(edge) and edge > 0 for edge in value.values())
    if keys not in ({"shortest_edge", "longest_edge"}, {"height", "width"}) or not positive:
        raise PromptError(f"{name} is {value!r:.60}. Give shortest_edge and longest_edge, or height and width, in pixels.")
    if math.prod(value.values() if "height" in value else [value["longest_edge"]] * 2) > MAX_PIXELS:
        raise PromptError(f"{name} is {value!r:.60}, which makes tiles of over {MAX_PIXELS:,} pixels. Give smaller edges.")
    return dict(value)


def _filter(name: str, value: Any) -> int:
    if not is_whole(value) or value not in set(Image.Resampling):
        raise PromptError(f"{name} is {value!r:.60}. Give one of Pillow's filters, a number from 0 to 5.")
    return int(value)


def _factor(name: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < _LARGEST:
        raise PromptError(f"{name} is {value!r:.60}. Give a finite number.")
    return value


_layout = choice("channels_first", "channels_last", None)
CHECKS: dict[str, Check] = {
    "do_convert_rgb": flag,
    "do_resize": flag,
    "size": _size,
    "resample": _filter,
    "do_rescale": flag,
    "rescale_factor": _factor,
    "do_normalize": flag,
    "image_mean": _numbers,
    "image_std": _numbers,
    "do_pad": flag,
    "do_image_splitting": flag,
    "data_format": _layout,
    "input_data_format": _layout,
}
assert list(CHECKS) == [field.name for field in dataclasses.fields(ImageOptions)]
