"""Anything a caller may call an image → a Pillow image or an array, opened safely."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias
from urllib.parse import unquote_to_bytes

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ImageError, shown
from ..outside.download import download, is_url
from ..outside.hosts import AllowUrls
from .file import open_file, upright_rgb


@dataclass(frozen=True)
class ImageUrl:
    """An address inside a message, which means a ``data:`` or http(s) URL and never a file, whoever wrote the message."""

    url: Any


ImageSource: TypeAlias = Image.Image | NDArray[Any] | str | Path | bytes | IO[bytes] | ImageUrl
"""A Pillow image, an array, a path, a ``data:`` or http(s) URL, a file's bytes, or an open binary file."""


def open_image(image: ImageSource, allow_urls: AllowUrls = False) -> Image.Image | NDArray[Any]:
    """Open an image. Files and bytes are decoded, turned upright by their EXIF orientation and made RGB, as the reference does.

    Pillow images and arrays come back as they are. Of a file with several frames or pictures (GIF, MPO) the first is taken.

    Args:
        allow_urls: download http(s) URLs, from any public host or from those that are named (`Hosts`). Off by default: an app
            that passes on strangers' messages would fetch for them.

    Raises:
        ImageError: it cannot be found, is damaged, is of no format that is taken (`FORMATS`), has more pixels than Pillow allows
            (twice `PIL.Image.MAX_IMAGE_PIXELS`), or takes more memory or work than so many may (`check_cost`).
    """
    if isinstance(image, Image.Image | np.ndarray):
        return image
    with _opened(image, allow_urls) as (file, name):
        return open_file(file, name)


def read_image(image: ImageSource, allow_urls: AllowUrls = False, upright: bool = True) -> bytes | Image.Image | NDArray[Any]:
    """An image that no file, URL or later change stands behind: a file's bytes, or a copy of an image or array.

    `upright` turns a Pillow image upright and makes it RGB, as the model's processor does or does not.

    Raises:
        ImageError: as `open_image`.
    """
    if isinstance(image, Image.Image):
        return upright_rgb(image).copy() if upright else image.copy()
    if isinstance(image, np.ndarray):
        return image.copy()
    with _opened(image, allow_urls) as (file, name):
        content = _content(file, name)
    open_file(io.BytesIO(content), name)
    return content


@contextmanager
def _opened(image: Any, allow_urls: AllowUrls) -> Iterator[tuple[IO[bytes], str]]:
    """A seekable file of an image, and what errors call it."""
    if isinstance(image, ImageUrl):
        image = _address(image.url)
    if isinstance(image, str) and _is_data(image):
        yield io.BytesIO(_data_url(image)), "The data: URL"
    elif isinstance(image, str) and is_url(image):
        yield io.BytesIO(download(image, allow_urls)), shown(image)
    elif isinstance(image, str | Path):
        try:
            file = _file(image).open("rb")
        except OSError as error:
            raise ImageError(f"{shown(image)} cannot be read ({error.strerror}). Check its permissions.") from error
        with file:
            yield file, shown(image)
    elif isinstance(image, bytes | bytearray | memoryview):
        yield io.BytesIO(image), "The image"
    elif hasattr(image, "read"):
        yield _seekable(image)
    else:
        raise ImageError(f"A {type(image).__name__} is not an image. Give a path, bytes, a Pillow image or a NumPy array.")


def _seekable(file: Any) -> tuple[IO[bytes], str]:
    """A caller's file, at its beginning; what cannot be wound back is read."""
    name = shown(getattr(file, "name", "The image"))
    try:
        if not (hasattr(file, "seekable") and file.seekable()):
            return io.BytesIO(_content(file, name)), name
        file.seek(0)
        _binary(file.read(0), name)
    except (ValueError, OSError) as error:
        if isinstance(error, ImageError):
            raise
        closed = "is closed" if getattr(file, "closed", False) else f"cannot be read ({error})"
        raise ImageError(f"{name} {closed}. Give a file that is open for reading.") from error
    return file, name


def _content(file: IO[bytes], name: str) -> bytes:
    try:
        return _binary(file.read(), name)
    except OSError as error:
        raise ImageError(f"{name} cannot be read ({error}). Give a file that is open for reading.") from error


def _binary(content: object, name: str) -> bytes:
    if isinstance(content, bytes):
        return content
    raise ImageError(
        f"Reading {name} gives {type(content).__name__}, not bytes. Open the file with mode 'rb', or give its bytes."
    )


def _address(url: Any) -> str:
    if isinstance(url, str) and (_is_data(url) or is_url(url)):
        return url
    raise ImageError(
        f"A message's image URL is {shown(url) if isinstance(url, str) else type(url).__name__}, no data: or http(s) URL. "
        'Give one, or a file as {"type": "image", "image": path}.'
    )


def _file(image: str | Path) -> Path:
    """The path of a file that is there."""
    try:
        path = Path(image)
        missing, is_file = not path.exists(), path.is_file()
    except (OSError, ValueError):  # a name too long, or with a zero byte
        missing, is_file = True, False
    if missing:
        raise ImageError(f"There is no image file {shown(image)}. Check the path.")
    if not is_file:
        raise ImageError(f"{shown(image)} is not a file. Give the path of one image.")
    return path


def _is_data(name: str) -> bool:
    return name[:5].lower() == "data:"


def _data_url(url: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise ImageError("The data: URL has no base64 content. Give data:image/...;base64,... or the image's bytes.")
    try:
        return base64.b64decode(unquote_to_bytes(body) if "%" in body else body, validate=False)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"The data: URL is not valid base64 ({error}). Encode the image's bytes again.") from error
