"""What decoding a picture takes in memory and time, known from its header."""

from __future__ import annotations

import re
from typing import IO, NamedTuple

from PIL import Image, ImageFile, TiffImagePlugin

from ..errors import ImageError
from .jpeg_markers import JpegWork

BYTES_PER_PIXEL = 7
"""Bytes of memory for each pixel of the limit: 1.25 GB by default, in which a progressive JPEG of 120 megapixels has room."""
SCANS_PER_PIXEL = 12
"""Scans for each pixel of the limit, so that a JPEG of 108 megapixels may have 19; programs write 10. About 1 ns each."""
_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
"""Bytes of a pixel in Pillow's modes; 4 in all others."""
_DECODERS = {"WEBP": 12, "AVIF": 12, "HEIF": 12}
"""Bytes of a pixel that these hold besides: canvases, planes of up to 16 bits and copies (measured with Pillow 13)."""
_PYTHON_BYTES, _PYTHON_SCANS = 28, 600
"""The same of decoders that Pillow has in Python, for uncommon kinds of PPM and BMP, and their time of 3 us a pixel."""
_SCANS_IN_TIFF = 100
"""The most of a progressive JPEG that libtiff goes over."""


class DecodingCost(NamedTuple):
    """What decoding one picture takes."""

    nbytes: int
    """The most that is held at once, see `decoding_cost`."""
    scans: int
    """Pixels that are gone over, all scans together."""


def max_pixels() -> int | None:
    """The most pixels that a picture may have: twice `PIL.Image.MAX_IMAGE_PIXELS`, as Pillow has it; None is no limit."""
    limit = Image.MAX_IMAGE_PIXELS
    return None if limit is None else int(2 * limit)


def check_cost(image: ImageFile.ImageFile, file: IO[bytes], jpeg: JpegWork) -> None:
    """Raise ImageError for a picture, opened and not decoded, that takes more than the limit in pixels stands for.

    These are BYTES_PER_PIXEL and SCANS_PER_PIXEL for each pixel of it.
    """
    limit = max_pixels()
    if limit is None:
        return
    cost, size = decoding_cost(image, file, jpeg), f"{image.width}×{image.height} pixels of mode {image.mode}"
    if cost.nbytes > BYTES_PER_PIXEL * limit:
        raise ImageError(
            f"{size} would take {cost.nbytes:,} bytes to decode, more than the limit of {BYTES_PER_PIXEL * limit:,}. {ADVICE}"
        )
    if cost.scans > SCANS_PER_PIXEL * limit:
        raise ImageError(
            f"{size} would be gone over {cost.scans // (image.width * image.height):,} times, which is more work than the limit "
            f"allows. Save it in one pass (as a baseline JPEG), or in a common format. {ADVICE}"
        )


ADVICE = "Shrink it, or raise the limit with --max-image-pixels (in Python: PIL.Image.MAX_IMAGE_PIXELS, half of it)."


def decoding_cost(image: ImageFile.ImageFile, file: IO[bytes], jpeg: JpegWork) -> DecodingCost:
    """Add up what one picture takes.

    Bytes: what Pillow stores for the mode, once more where EXIF turns it, 4 a pixel for the RGB copy where the mode is another,
    and what the decoder holds meanwhile: the coefficients of a JPEG of several scans, the strip or tile of a TIFF, the canvases
    of a WebP or AVIF. Rows of interlaced and 16-bit PNGs are stored as they come and take nothing more.
    """
    pixels, stored = image.width * image.height, _STORED.get(image.mode, 4)
    # Without an eXIf chunk at its beginning a PNG is decoded to look for one at its end.
    turned = (image.format != "PNG" or "exif" in image.info) and image.getexif().get(0x0112, 1) != 1
    per_pixel = stored * (1 + turned) + (0 if image.mode == "RGB" else 4) + _DECODERS.get(image.format or "", 0)
    scans, buffer = jpeg.scans, int(pixels * jpeg.coefficient_bytes)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        buffer = _tiff_buffer(image)
        if "jpeg" in image.info.get("compression", "") and _has_progressive(file):
            scans = _SCANS_IN_TIFF
    if image.tile and image.tile[0][0] in Image.DECODERS:
        per_pixel, scans = per_pixel + _PYTHON_BYTES, _PYTHON_SCANS
    return DecodingCost(pixels * per_pixel + buffer, pixels * scans)


def _tiff_buffer(image: TiffImagePlugin.TiffImageFile) -> int:
    """Bytes of one strip or tile, which libtiff decodes whole, whatever part of it lies inside the image."""
    tags = image.tag_v2
    if TiffImagePlugin.TILEWIDTH in tags:
        area = _number(tags.get(TiffImagePlugin.TILEWIDTH)) * _number(tags.get(TiffImagePlugin.TILELENGTH))
    else:
        area = image.width * min(image.height, _number(tags.get(TiffImagePlugin.ROWSPERSTRIP, image.height)))
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
    deepest = max(map(_number, bits if isinstance(bits, tuple) else (bits,)), default=1)
    return area * _number(tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)) * deepest // 8


def _has_progressive(file: IO[bytes]) -> bool:
    """Whether a progressive JPEG begins in a file of JPEGs, in whose pixels a byte FF never comes before one of these."""
    place = file.tell()
    file.seek(0)
    found = re.search(rb"\xff[\xc2\xca]", file.read())
    file.seek(place)
    return found is not None


def _number(value: object) -> int:
    """The number in a tag that may be damaged; 0 is as small as none."""
    return max(0, int(value)) if isinstance(value, int | float) else 0
