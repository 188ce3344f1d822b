"""A file's bytes → an upright RGB picture, of the formats that are taken and within the limits that `decoding_cost` sets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from ..errors import ImageError, first_line
from .decoding_cost import ADVICE, DecodingCost, check_cost, decoding_cost, max_pixels
from .geometry import Size
from .jpeg_markers import JpegWork, jpeg_work
from .tiff_tables import check_tables

with suppress(ImportError):  # Pillow has it since 11.2
    from PIL import AvifImagePlugin  # noqa: F401

FORMATS = (
    JpegImagePlugin.JpegImageFile.format,  # and MPO, a JPEG of several pictures
    PngImagePlugin.PngImageFile.format,
    WebPImagePlugin.WebPImageFile.format,
    GifImagePlugin.GifImageFile.format,
    BmpImagePlugin.BmpImageFile.format,
    TiffImagePlugin.TiffImageFile.format,
    PpmImagePlugin.PpmImageFile.format,  # and PGM, PBM, PFM
    "AVIF",
    "HEIF",  # where the application has registered a plug-in for it, such as pillow-heif
)
"""Pillow's names of the formats that are opened, wherever a picture comes from.

Not among them, on purpose: formats that start a program or follow a reference (EPS, WMF, FPX, MIC), that few people have and few
programs check (ICO, PCX, PSD, TGA and the like), or whose header does not tell what memory they take (JPEG 2000).
"""
_OTHERS = (
    (rb"%PDF-", "a PDF: render its pages to images first"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript file: render it to an image first"),
    (rb"\xd7\xcd\xc6\x9a|\x01\x00\x00\x00.{36} EMF", "a Windows metafile: render it to an image first"),
    (rb".{4}ftyp(heic|heix|hevc|heim|heis|mif1|msf1)", "a HEIF file, for which no plug-in is registered (see pillow-heif)"),
    (rb".{4}ftypavi[fs]", "an AVIF file, which this Pillow cannot open"),
    (rb".{4}ftyp|\x1aE\xdf\xa3|RIFF.{4}AVI ", "a video: give one picture of it"),
    (rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 file"),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "a JPEG XL file"),
    (rb"8BPS", "a Photoshop file"),
    (rb"\x00\x00[\x01\x02]\x00", "an icon"),
    (rb"\s*<(\?xml|svg|!doctype|html|!--)", "text in XML or HTML (an SVG has to be rendered, a web page is no picture)"),
    (rb"PK\x03\x04|\x1f\x8b", "an archive"),
)  # fmt: skip
"""How files begin that people take for pictures."""
_LONGEST_START = 48


def open_file(file: IO[bytes], name: str) -> Image.Image:
    """The first picture of a seekable file, decoded, turned upright by its EXIF orientation and made RGB, as the reference does.

    Pillow warns of pictures between its limit and twice its limit; where the application makes that an error, it is one here.

    Raises:
        ImageError: it is damaged, of another format, or takes more than the limits.
    """
    with _within_limits(file, name) as (image, _):
        return upright_rgb(image, name)


def measure(file: IO[bytes], name: str) -> tuple[Size, DecodingCost]:
    """Size of the first picture of a seekable file, and what decoding it takes, from its header. Errors as `open_file`."""
    with _within_limits(file, name) as (image, jpeg):
        return Size(image.height, image.width), decoding_cost(image, file, jpeg)


@contextmanager
def _within_limits(file: IO[bytes], name: str) -> Iterator[tuple[ImageFile.ImageFile, JpegWork]]:
    """A file's picture, not decoded yet, and what of a JPEG's work its markers tell; whatever fails is an ImageError."""
    try:
        check_tables(file)
        jpeg = jpeg_work(file)
        with Image.open(file, formats=[each for each in FORMATS if each in Image.OPEN]) as image:
            check_cost(image, file, jpeg)
            yield image, jpeg
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name} has more pixels than the limit of {_pixel_limit(error):,}. {ADVICE}") from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name} {_what_it_is(file)}. Give a JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, AVIF or HEIF file."
        ) from error
    except ImageError as error:
        if str(error).startswith(name):
            raise
        raise ImageError(f"{name}: {error}") from error
    except MemoryError as error:
        raise ImageError(f"{name} needs more memory than there is. Shrink it.") from error
    except Exception as error:  # some of Pillow's plug-ins fail on damaged headers in their own ways
        raise ImageError(f"{name} is damaged or cannot be read ({first_line(error)}). Give an intact image file.") from error


def upright_rgb(image: Image.Image, name: str = "The image") -> Image.Image:
    """The reference's `load_image` on a Pillow image: upright by its EXIF orientation, then RGB, transparency dropped."""
    try:
        if image.getexif().get(0x0112, 1) != 1:  # transposing copies even where there is nothing to turn
            image = ImageOps.exif_transpose(image)
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")
    except MemoryError as error:
        raise ImageError(f"{name} needs more memory than there is. Shrink it.") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise ImageError(f"{name} is damaged or incomplete ({first_line(error)}). Give an intact image file.") from error


def _pixel_limit(error: Exception) -> int:
    """The limit that was passed: Pillow's own where the application makes its warning an error, else twice that."""
    return (Image.MAX_IMAGE_PIXELS or 0) if isinstance(error, Image.DecompressionBombWarning) else (max_pixels() or 0)


def _what_it_is(file: IO[bytes]) -> str:
    """Why a file is not an image, from its first bytes."""
    file.seek(0)
    start = file.read(_LONGEST_START)
    if not start:
        return "is empty (0 bytes)"
    found = next((what for pattern, what in _OTHERS if re.match(pattern, start, re.DOTALL | re.IGNORECASE)), None)
    return f"is {found}" if found else "is not an image of a format that is taken, or is damaged at its very beginning"
