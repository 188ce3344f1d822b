"""The pictures of a request: fetched, and measured before any of them is decoded."""

from __future__ import annotations

import io
from collections.abc import Sequence

from starlette.concurrency import run_in_threadpool

from ..errors import ImageError
from ..images.decoding_cost import BYTES_PER_PIXEL
from ..images.file import measure
from .budget import Hold
from .conversation import Picture
from .picture_url import PictureRefused, PictureUrls
from .problem import Problem


async def picture_bytes(pictures: Sequence[Picture], urls: PictureUrls, most_pixels: int, hold: Hold) -> list[bytes]:
    """The bytes of each.

    Raises:
        Problem: 400 for an address that is refused, for bytes that are no picture, and for more pixels than may be together.
    """
    found = []
    for picture in pictures:
        if isinstance(picture.source, bytes):
            found.append(picture.source)
            continue
        try:
            content = await urls.read(picture.source, hold.take)
        except PictureRefused as error:
            raise Problem(400, str(error), "invalid_image_url", picture.place) from error
        found.append(content)
    if found:
        await run_in_threadpool(_check_pixels, found, [picture.place for picture in pictures], most_pixels)
    return found


def _check_pixels(contents: Sequence[bytes], places: Sequence[str], most: int) -> None:
    """What the pictures say of themselves, added up: all of a request are held decoded at once."""
    pixels = nbytes = 0
    for content, place in zip(contents, places, strict=True):
        try:
            size, cost = measure(io.BytesIO(content), "The image")
        except ImageError as error:
            raise Problem(400, str(error), "invalid_image", place) from error
        pixels, nbytes = pixels + size.width * size.height, nbytes + cost.nbytes
        if pixels > most or nbytes > BYTES_PER_PIXEL * most:
            raise Problem(
                400,
                f"The request's images have {pixels:,} pixels and take {nbytes:,} bytes to decode, of {most:,} and "
                f"{BYTES_PER_PIXEL * most:,} that they may. Send smaller images, or fewer.",
                "too_many_pixels",
                place,
            )
