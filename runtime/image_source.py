"""Anything a caller may call an image → a Pillow image or an array, opened safely."""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from .download import download, is_url
from .errors import ImageError

ImageSource: TypeAlias = Image.Image | NDArray[Any] | str | Path | bytes | IO[bytes]
"""A Pillow image, an array, a path, a ``data:`` or http(s) URL, a file's bytes, or an open binary file."""


def open_image(source: ImageSource, allow_urls: bool = False) -> Image.Image | NDArray[Any]:
    """Open an image. Files and bytes are decoded, turned upright by their EXIF orientation and made RGB, as the reference does.

    Pillow images and arrays come back as they are. Of a file with several frames or pictures (GIF, MPO) the first is taken.

    Args:
        allow_urls: download http(s) URLs. Off by default: an app that passes on strangers' messages would fetch for them.

    Raises:
        ImageError: it cannot be found, is damaged, is no image, or has more pixels than Pillow allows
            (twice `PIL.Image.MAX_IMAGE_PIXELS`).
    """
    if isinstance(source, Image.Image | np.ndarray):
        return source
    if isinstance(source, str | Path):
        return _open_named(source, allow_urls)
    if isinstance(source, bytes | bytearray | memoryview):
        return _open(io.BytesIO(source), "The image")
    if hasattr(source, "read"):
        name = str(getattr(source, "name", "The image"))
        seekable = getattr(source, "seekable", None)
        return _open(source if seekable and seekable() else io.BytesIO(source.read()), name)
    raise _no_image(source)


def read_source(source: ImageSource, allow_urls: bool = False) -> bytes | Image.Image | NDArray[Any]:
    """An image that no file, URL or later change stands behind: a file's bytes, an upright RGB image, or an array's copy.

    Raises:
        ImageError: as `open_image`.
    """
    if isinstance(source, Image.Image):
        return upright_rgb(source).copy()
    if isinstance(source, np.ndarray):
        return source.copy()
    if isinstance(source, bytes | bytearray | memoryview):
        content = bytes(source)
    elif isinstance(source, str) and source.startswith("data:"):
        content = _data_url(source)
    elif isinstance(source, str) and is_url(source):
        content = download(_allowed(source, allow_urls))
    elif isinstance(source, str | Path):
        content = _file(source).read_bytes()
    elif hasattr(source, "read"):
        content = source.read()
    else:
        raise _no_image(source)
    open_image(content)
    return content


def upright_rgb(image: Image.Image, name: str = "The image") -> Image.Image:
    """The reference's `load_image` on a Pillow image: upright by its EXIF orientation, then RGB, transparency dropped."""
    try:
        if image.getexif().get(0x0112, 1) != 1:  # transposing copies even where there is nothing to turn
            image = ImageOps.exif_transpose(image)
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise ImageError(f"{name} is damaged or incomplete ({error}). Give an intact image file.") from error


def _open_named(source: str | Path, allow_urls: bool) -> Image.Image:
    name = str(source)
    if name.startswith("data:"):
        return _open(io.BytesIO(_data_url(name)), "The data: URL")
    if is_url(name):
        return _open(io.BytesIO(download(_allowed(name, allow_urls))), name)
    return _open(_file(source), name)


def _no_image(source: object) -> ImageError:
    return ImageError(f"A {type(source).__name__} is not an image. Give a path, bytes, a Pillow image or a NumPy array.")


def _allowed(url: str, allow_urls: bool) -> str:
    if not allow_urls:
        raise ImageError(f"{url:.200} is a URL, and downloads are off. Set allow_urls=True, or give the image itself.")
    return url


def _file(source: str | Path) -> Path:
    """The path of a file that is there."""
    try:
        path = Path(source)
        missing, is_file = not path.exists(), path.is_file()
    except (OSError, ValueError):  # a name too long, or with a zero byte
        missing, is_file = True, False
    if missing:
        raise ImageError(f"There is no image file {source!s:.200}. Check the path.")
    if not is_file:
        raise ImageError(f"{source} is not a file. Give the path of one image.")
    return path


def _open(file: Path | IO[bytes], name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Between its limit and twice its limit Pillow only warns; the reference opens those images.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                return upright_rgb(image, name)
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name} has more pixels than the limit of {2 * (Image.MAX_IMAGE_PIXELS or 0):,}. "
            "Shrink it, or raise the limit with --max-image-pixels (in Python: PIL.Image.MAX_IMAGE_PIXELS, half of it)."
        ) from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} {_what_it_is(file)}. Give a JPEG, PNG, WebP or similar file.") from error
    except ImageError:
        raise
    except Exception as error:  # some of Pillow's plug-ins fail on damaged headers in their own ways
        raise ImageError(f"{name} is damaged or cannot be read ({error}). Give an intact image file.") from error


def _what_it_is(file: Path | IO[bytes]) -> str:
    """Why a file is not an image, from its first bytes."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            start = opened.read(5)
    else:
        file.seek(0)
        start = file.read(5)
    if not start:
        return "is empty (0 bytes)"
    if start == b"%PDF-":
        return "is a PDF: render its pages to images first"
    return "is not an image that Pillow can read"


def _data_url(url: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise ImageError("The data: URL has no base64 content. Give data:image/...;base64,... or the image's bytes.")
    try:
        return base64.b64decode(body, validate=False)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"The data: URL is not valid base64 ({error}). Encode the image's bytes again.") from error
