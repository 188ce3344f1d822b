"""The text of an OpenAI `image_url` → the picture's bytes. Nothing here opens a file, whatever a text looks like."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence

from ..errors import PromptError
from .allowed_domains import AllowedDomains
from .data_url import read_data_url
from .picture_refused import PictureRefused
from .pinned_download import PinnedDownload

__all__ = ["PictureRefused", "PictureUrls"]
LONGEST_ADDRESS = 8192
"""Letters of an http(s) address; servers and proxies take about as many."""


class PictureUrls:
    """Reads ``data:`` URLs of pictures, and http(s) addresses of the domains that are allowed.

    Args:
        allowed: domains that pictures are fetched from, "example.org" itself, ".example.org" or "*.example.org" all below it,
            with a port where it is not the scheme's own. None by default: then nothing is ever fetched.
        max_bytes: most bytes of one picture, as it is stored; what decoding it may take is the image processor's to bound.
        seconds: what fetching one may take, with all that its address leads on to.

    Raises:
        PromptError: an allowed domain is none, or a limit is not a positive number.
    """

    def __init__(self, allowed: Sequence[str] = (), max_bytes: int = 20_000_000, seconds: float = 10.0) -> None:
        if max_bytes < 1 or not (math.isfinite(seconds) and seconds > 0):
            raise PromptError(f"max_bytes is {max_bytes} and seconds {seconds}. Give positive numbers.")
        self._max_bytes, self._seconds = max_bytes, seconds
        self._download = PinnedDownload(AllowedDomains(allowed), max_bytes)

    async def read(self, url: str, count: Callable[[int], object] = lambda _: None) -> bytes:
        """The bytes of one picture, of whatever format they are.

        Args:
            count: told how many bytes there are, as they come and before they are kept; what it raises ends it.

        Raises:
            PictureRefused: it is neither, may not be fetched, is no picture by its type, too large, late or broken.
        """
        if not isinstance(url, str):
            raise PictureRefused("The image_url is no text. Send data:image/png;base64,… with the picture's type.")
        scheme = url[:8].lower()
        if scheme.startswith("data:"):
            content = await read_data_url(url, self._max_bytes)
            count(len(content))
            return content
        if not scheme.startswith(("http://", "https://")):
            raise PictureRefused(
                "The image_url is neither a data: nor an http(s) URL. Send the picture as data:image/png;base64,… with its type."
            )
        if len(url) > LONGEST_ADDRESS:
            raise PictureRefused(f"The image_url is an address of more than {LONGEST_ADDRESS:,} letters. Send a shorter one.")
        try:
            async with asyncio.timeout(self._seconds):
                return await self._download.read(url, count)
        except TimeoutError as error:
            raise PictureRefused(
                f"The picture took longer than {self._seconds:g} seconds to come. Try again, or send the picture itself."
            ) from error
