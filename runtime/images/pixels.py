"""Tile pixels: channels, cutting, resizing and values. Pure functions, each the equal of one step of the reference.

Source: transformers 5.23, image_processing_backends.py (PilBackend) and image_transforms.py. Bytes stay bytes until
their values are looked up in a table; only arrays of other types are computed number by number.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ImageError
from .geometry import Box, Size

Layout = Literal["channels_first", "channels_last"]
Picture = Image.Image | NDArray[Any]
"""A whole image: a Pillow image, or an array [channels, height, width]."""
MeanStd = tuple[float | tuple[float, ...], float | tuple[float, ...]]


class TilePixels(NamedTuple):
    """A tile before its values are computed."""

    pixels: NDArray[Any]
    """[channels, height, width]"""
    unit: bool
    """Whether bytes stand for values from 0 to 1."""


def to_picture(image: Image.Image | NDArray[Any], do_convert_rgb: bool, layout: Layout | None) -> Picture:
    """Bring an image to RGB, if asked, with transparency on white, and its channels to the front.

    `layout` says where an array's channels are; None infers it (1, 3 or 4 channels, first rather than last).
    """
    if isinstance(image, Image.Image):
        if do_convert_rgb:
            return _pillow_to_rgb(image)
        array = np.asarray(_loaded(image))
        _check(array)
        return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
    _check(image)
    if image.ndim == 2 and (layout or not do_convert_rgb):
        return image[None]
    layout = layout or _infer_layout(image)
    channels_first = np.moveaxis(image, -1, 0) if layout == "channels_last" else image
    return _array_to_rgb(channels_first) if do_convert_rgb else channels_first


def picture_size(picture: Picture) -> Size:
    """Height and width of a picture."""
    return Size(picture.height, picture.width) if isinstance(picture, Image.Image) else Size(*picture.shape[1:])


def cut(picture: Picture, box: Box) -> Picture:
    """The part of a picture inside a box; the picture itself where the box is all of it."""
    if isinstance(picture, np.ndarray):
        return picture[:, box.upper : box.lower, box.left : box.right]
    return picture if box.size == picture_size(picture) else picture.crop(box)


def resize(picture: Picture, size: Size, resample: int) -> TilePixels:
    """Resize with Pillow, on bytes."""
    unit = False
    if isinstance(picture, np.ndarray):
        unit = _is_unit_range(picture)
        if unit:
            picture = (picture.astype(np.float64) * 255).astype(np.float32)
        picture = _to_pillow(picture.astype(np.uint8))
    resized = np.asarray(picture.resize((size.width, size.height), Image.Resampling(resample)))
    return TilePixels(resized[None] if resized.ndim == 2 else np.moveaxis(resized, -1, 0), unit)


def unresized(picture: Picture) -> TilePixels:
    """A picture's own pixels."""
    return TilePixels(np.moveaxis(np.asarray(picture), -1, 0) if isinstance(picture, Image.Image) else picture, False)


def to_values(
    tile: TilePixels,
    rescale_factor: float | None,
    mean_std: MeanStd | None,
    out: NDArray[Any] | None = None,
    dtype: type[np.generic] | None = None,
) -> NDArray[Any]:
    """Rescale and normalise a tile; None leaves a step out.

    Returns:
        [channels, height, width], float32 after either step on bytes, or else of the type that is asked for, to which bytes go
        in one step; written to `out` where that is given.
    """
    if tile.pixels.dtype != np.uint8:
        values = _compute_values(tile.pixels, tile.unit, rescale_factor, mean_std)
        if out is None:
            return values if dtype is None else values.astype(dtype, copy=False)
        out[...] = values
        return out
    table = _value_table(len(tile.pixels), tile.unit, rescale_factor, mean_std, None if dtype is None else np.dtype(dtype))
    values = out if out is not None and out.dtype == table.dtype else np.empty(tile.pixels.shape, table.dtype)
    for channel, lookup in enumerate(table[:, 0]):
        np.take(lookup, tile.pixels[channel], out=values[channel], mode="clip")  # "raise", the default, is three times slower
    if out is not None and values is not out:
        out[...] = values
    return values


@lru_cache(maxsize=64)
def _value_table(
    channels: int, unit: bool, rescale_factor: float | None, mean_std: MeanStd | None, dtype: np.dtype[Any] | None = None
) -> NDArray[Any]:
    """[channels, 1, 256]: what each byte of each channel becomes."""
    every_byte = np.broadcast_to(np.arange(256, dtype=np.uint8), (channels, 1, 256))
    values = _compute_values(every_byte, unit, rescale_factor, mean_std)
    return values if dtype is None else values.astype(dtype)


def _compute_values(pixels: NDArray[Any], unit: bool, rescale_factor: float | None, mean_std: MeanStd | None) -> NDArray[Any]:
    """The arithmetic of the reference: rescaling in float64 and back to float32, normalising in the values' own type."""
    if unit:
        pixels = (pixels.astype(np.float64) * (1 / 255)).astype(np.float32)
    if rescale_factor is not None:
        pixels = (pixels.astype(np.float64) * rescale_factor).astype(np.float32)
    if mean_std is not None:
        if not np.issubdtype(pixels.dtype, np.floating):
            pixels = pixels.astype(np.float32)
        mean, std = (_per_channel(name, value, pixels) for name, value in zip(("image_mean", "image_std"), mean_std, strict=True))
        pixels = (pixels - mean) / std
    return pixels


def _per_channel(name: str, value: float | tuple[float, ...], pixels: NDArray[Any]) -> NDArray[Any]:
    numbers = value if isinstance(value, tuple) else (value,) * len(pixels)
    if len(numbers) != len(pixels):
        raise ImageError(f"{name} has {len(numbers)} numbers, but the image has {len(pixels)} channels. Give one per channel.")
    return np.array(numbers, dtype=pixels.dtype)[:, None, None]


def _pillow_to_rgb(image: Image.Image) -> Image.Image:
    image = _loaded(image)
    try:
        if "A" in image.getbands() or image.info.get("transparency") is not None:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            return Image.alpha_composite(white, image).convert("RGB")
        return image if image.mode == "RGB" else image.convert("RGB")
    except ValueError as error:
        raise ImageError(f"An image of mode {image.mode} cannot be made RGB ({error}). Convert it first.") from error


def _loaded(image: Image.Image) -> Image.Image:
    """Decode a Pillow image that was only opened so far."""
    try:
        image.load()
    except Exception as error:  # each of Pillow's decoders fails in its own way
        raise ImageError(f"The image is damaged or incomplete ({error}). Give an intact image.") from error
    return image


def _array_to_rgb(image: NDArray[Any]) -> NDArray[Any]:
    channels = len(image)
    if channels == 1:
        return np.repeat(image, 3, axis=0)
    if channels != 4:
        return image
    if np.issubdtype(image.dtype, np.floating) and (image.min() < 0 or image.max() > 1):
        raise ImageError(f"An image of 4 float channels has values from {image.min()} to {image.max()}. Give them from 0 to 1.")
    white = 255 if np.issubdtype(image.dtype, np.integer) else 1.0
    alpha = image[3:] / white
    composite = alpha * image[:3] + (1 - alpha) * white
    blended: NDArray[Any] = np.round(composite) if white == 255 else composite
    return blended.astype(image.dtype)


def _check(image: NDArray[Any]) -> None:
    if not (np.issubdtype(image.dtype, np.integer) or np.issubdtype(image.dtype, np.floating) or image.dtype == bool):
        raise ImageError(f"An image array has the dtype {image.dtype}. Give integers from 0 to 255 or floats.")
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise ImageError(f"An image array has the shape {list(image.shape)}. Give [height, width, channels] or channels first.")
    if np.issubdtype(image.dtype, np.floating) and not np.isfinite(image).all():
        count = int((~np.isfinite(image)).sum())
        raise ImageError(f"An image array has {count} values that are NaN or infinite. Replace them.")


def _infer_layout(image: NDArray[Any]) -> Layout:
    if image.ndim == 3:
        if image.shape[0] in (1, 3, 4):
            return "channels_first"
        if image.shape[2] in (1, 3, 4):
            return "channels_last"
    raise ImageError(f"An image array has the shape {list(image.shape)}, without 1, 3 or 4 channels. Add an axis for them.")


def _is_unit_range(image: NDArray[Any]) -> bool:
    """Whether an array holds values from 0 to 1 rather than from 0 to 255; the reference decides tile by tile."""
    if image.dtype == np.uint8 or not image.size:
        return False
    low, high = image.min(), image.max()
    limit = 255 if np.allclose(image, image.astype(int)) else 1
    if low < 0 or high > limit:
        raise ImageError(
            f"An image array has values from {low} to {high}, outside 0 to {limit}. Scale them to bytes or to 0 to 1."
        )
    return limit == 1


def _to_pillow(array: NDArray[np.uint8]) -> Image.Image:
    channels = len(array)
    if channels > 4:
        raise ImageError(f"An image array has {channels} channels. Give 1, 3 or 4.")
    return Image.fromarray(np.ascontiguousarray(np.moveaxis(array, 0, -1)) if channels > 1 else np.ascontiguousarray(array[0]))
