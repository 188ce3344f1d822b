"""What a JPEG's markers say about the work of decoding it, found without decoding."""

from __future__ import annotations

import re
from typing import IO, NamedTuple

from ..errors import ImageError

MAX_HEADER = 16 << 20
"""Bytes in front of the first scan: Pillow joins their EXIF segments again with each one that comes."""
MAX_SEGMENTS = 10_000
"""Most segments of a file; Pillow and we go over them one by one. Cameras write tens, depth maps inside XMP hundreds."""
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""Any but those of restarts, which belong to a scan's data, as does FF 00."""
_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_SCAN, _END, _WITHOUT_LENGTH = 0xDA, 0xD9, frozenset({0x01, 0xD8})


class JpegWork(NamedTuple):
    """The work of a file that is decoded scan by scan, as progressive ones are; of others 1 scan and no coefficients."""

    scans: int
    """Over the whole image, or over one of its components."""
    coefficient_bytes: float
    """Per pixel, kept from the first scan to the last: 2 per coefficient, of all components."""


def jpeg_work(file: IO[bytes]) -> JpegWork:
    """The work that a file makes; one that is no JPEG makes none.

    Raises:
        ImageError: a JPEG's segments are longer or more than any camera writes.
    """
    file.seek(0)
    if file.read(3) != b"\xff\xd8\xff":
        return JpegWork(1, 0.0)
    file.seek(0)
    return _walk(file.read())


def _walk(content: bytes) -> JpegWork:
    """Go from segment to segment up to the end of the image; what is inside of them (thumbnails) or after it does not count."""
    place, segments, scans, coefficient_bytes, components, progressive = 0, 0, 0, 0.0, 1, False
    while (found := _MARKER.search(content, place)) and (marker := found[0][1]) != _END:
        place, segments = found.end(), segments + 1
        if segments > MAX_SEGMENTS:
            raise ImageError(f"The JPEG has more than {MAX_SEGMENTS:,} segments. Save it again with an image program.")
        if marker in _WITHOUT_LENGTH:
            continue
        length = int.from_bytes(content[place : place + 2])
        segment, place = content[place + 2 : place + min(length, 64)], place + length
        if not scans and place > MAX_HEADER:
            raise ImageError(f"The JPEG has more than {MAX_HEADER:,} bytes in front of its pixels. Save it again without them.")
        if marker in _FRAMES and len(segment) > 5:
            progressive, components = marker in _PROGRESSIVE, segment[5]
            coefficient_bytes = _coefficient_bytes(segment[6 : 6 + 3 * components])
        elif marker == _SCAN:
            scans += 1
            if not progressive and segment[:1] == bytes([components]):
                return JpegWork(1, 0.0)  # all there is, row by row
    return JpegWork(max(1, scans), coefficient_bytes)


def _coefficient_bytes(components: bytes) -> float:
    """Bytes of one pixel's coefficients, from three bytes per component, of which the second has its sampling factors."""
    factors = [(byte >> 4) * (byte & 15) for byte in components[1::3]]
    widest, highest = max((b >> 4 for b in components[1::3]), default=1), max((b & 15 for b in components[1::3]), default=1)
    return 2 * sum(factors) / max(1, widest * highest)
