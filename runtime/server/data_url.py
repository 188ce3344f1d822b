"""A ``data:`` URL → the picture's bytes."""

from __future__ import annotations

import asyncio
import binascii
import re
from urllib.parse import unquote_to_bytes

from ..errors import shown
from .picture_refused import PictureRefused

TYPES = frozenset(
    f"image/{name}"
    for name in (
        *("jpeg", "jpg", "pjpeg", "png", "x-png", "webp", "gif", "bmp", "x-bmp", "x-ms-bmp", "tiff", "avif"),
        *("heic", "heif", "x-portable-anymap", "x-portable-bitmap", "x-portable-graymap", "x-portable-pixmap"),
    )
)
"""What programs call the formats that are opened (`images/file.py`). What is inside is told by the bytes, not by this."""
SVG = "image/svg+xml"
_HEAD = re.compile(r"data:(?P<type>[^;,]*)(;(?!base64\Z)[^;,]*)*(?P<base64>;base64)?", re.IGNORECASE | re.ASCII)
_LONGEST_HEAD = 200
_PIECE = 1 << 20
"""Letters that are decoded before others get their turn, about a millisecond's work; a multiple of 4."""


async def read_data_url(url: str, max_bytes: int) -> bytes:
    """The bytes in a ``data:`` URL of a picture, whose size is known before they are decoded.

    Raises:
        PictureRefused: another type, SVG, not base64, or more than `max_bytes`.
    """
    comma = url.find(",", 0, _LONGEST_HEAD)
    head = _HEAD.fullmatch(url, 0, comma) if comma >= 0 else None
    if head is None:
        raise PictureRefused("The data: URL has no type and content. Send data:image/png;base64,… with the picture's type.")
    check_type(head["type"], "The data: URL")
    if head["base64"] is None:
        raise PictureRefused("The data: URL is not in base64. Send data:image/png;base64,… with the picture's type.")
    return await _decoded(_letters(url, comma + 1, max_bytes), max_bytes)


def check_type(said: str, what: str) -> None:
    """Raise PictureRefused unless it is the type of a picture that can be opened."""
    kind = said.partition(";")[0].strip().lower()
    if kind == SVG:
        raise PictureRefused(f"{what} is an SVG, a drawing that has to be rendered first. Send it as a PNG.")
    if kind not in TYPES:
        named = f"has the type {shown(kind, 80)}" if kind else "has no type"
        raise PictureRefused(f"{what} {named}, which is no picture that is opened. Send a JPEG, PNG, WebP, GIF, BMP or TIFF.")


def too_large(max_bytes: int) -> PictureRefused:
    """What is said of a picture with more bytes than one may have."""
    return PictureRefused(f"The picture has more than {max_bytes:,} bytes, the most that one may have. Send a smaller one.")


def _letters(url: str, start: int, max_bytes: int) -> bytes:
    most = 4 * -(-max_bytes // 3)
    escaped = url.find("%", start) >= 0
    if len(url) - start > (3 * most if escaped else most):
        raise too_large(max_bytes)
    body = url[start:]
    if not body.isascii():
        raise _not_base64()
    return unquote_to_bytes(body) if escaped else body.encode("ascii")


async def _decoded(letters: bytes, max_bytes: int) -> bytes:
    """Strict base64: no letters of another alphabet, spaces or line ends, and whole to its last sign."""
    if len(letters) % 4 or letters.find(b"=", 0, -2) >= 0:  # of which strict mode lets some through
        raise _not_base64()
    content, view = bytearray(), memoryview(letters)
    for start in range(0, len(letters), _PIECE):
        try:
            content += binascii.a2b_base64(view[start : start + _PIECE], strict_mode=True)
        except binascii.Error as error:
            raise _not_base64() from error
        if len(content) > max_bytes:
            raise too_large(max_bytes)
        if start:
            await asyncio.sleep(0)
    if not content:
        raise PictureRefused("The data: URL has no content. Send the picture's bytes in base64 after the comma.")
    return bytes(content)


def _not_base64() -> PictureRefused:
    return PictureRefused("The data: URL is not valid base64. Encode the picture's bytes again, without line ends.")
