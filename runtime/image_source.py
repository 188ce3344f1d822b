"""Anything a caller may call an image → an upright RGB Pillow image, as the reference's `load_image` makes it."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import ImageError

ImageSource: TypeAlias = Image.Image | NDArray[Any] | str | Path | bytes | IO[bytes]
"""A Pillow image, an array (uint8, [height, width], [height, width, channels] or channels first), a path, or a file's bytes."""


def load_image(source: ImageSource) -> Image.Image:
    """Open an image, turn it upright by its EXIF orientation and convert it to RGB.

    Raises:
        ImageError: it cannot be found, is damaged, is no image, or has more pixels than Pillow's limit
            (`PIL.Image.MAX_IMAGE_PIXELS`; Pillow refuses from twice that).
    """
    if isinstance(source, Image.Image):
        return _upright(source, "The image")
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, str | Path):
        name = str(source)
        path = Path(source)
        if not path.exists():
            raise ImageError(f"There is no image file {name}. Check the path.")
        if not path.is_file():
            raise ImageError(f"{name} is not a file. Give the path of one image.")
        if path.stat().st_size == 0:
            raise ImageError(f"{name} is empty (0 bytes). Give an image file.")
        return _open(path, name)
    if isinstance(source, bytes | bytearray):
        return _open(io.BytesIO(source), "The image")
    if hasattr(source, "read"):
        return _open(source, getattr(source, "name", "The image"))
    raise ImageError(f"A {type(source).__name__} is not an image. Give a path, bytes, a Pillow image or a NumPy array.")


def _open(file: Path | IO[bytes], name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Between its limit and twice its limit Pillow only warns; the reference opens those images.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                return _upright(image, name)
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageError(
            f"{name} has more pixels than the limit of {limit:,}. "
            "Shrink it, or raise the limit with --max-image-pixels (in Python: PIL.Image.MAX_IMAGE_PIXELS, half of it)."
        ) from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is not an image that Pillow can read. Give a JPEG, PNG, WebP or similar file.") from error


def _upright(image: Image.Image, name: str) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image).convert("RGB")
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise ImageError(f"{name} is damaged or incomplete ({error}). Give an intact image file.") from error


def _from_array(array: NDArray[Any]) -> Image.Image:
    """uint8 arrays as they are; layout as the reference infers it: channels (1, 3 or 4) first, else last."""
    if array.dtype != np.uint8:
        raise ImageError(f"An image array has the dtype {array.dtype}. Give uint8 values from 0 to 255.")
    if array.ndim == 3 and array.shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if 0 in array.shape or not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4))):
        raise ImageError(f"An image array has the shape {list(array.shape)}. Give [height, width] or [height, width, 1, 3 or 4].")
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def nested(images: Any) -> list[list[ImageSource]]:
    """One image, a list of images (of one sample) or a list of samples → a list of samples."""
    if not isinstance(images, list | tuple):
        return [[images]]
    if images and all(isinstance(sample, list | tuple) for sample in images):
        return [list(sample) for sample in images]
    if any(isinstance(sample, list | tuple) for sample in images):
        raise ImageError("images mixes images and lists of images. Give a list of images, or one list per prompt.")
    return [list(images)]
