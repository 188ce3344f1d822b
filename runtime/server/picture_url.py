"""The address of a picture in a message → its bytes."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence


class PictureRefused(ValueError):  # noqa: N818 - it says what became of it
    """An address that no picture is taken from."""


class PictureUrls:
    """Reads data: URLs."""

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        self._allowed = allowed

    async def read(self, url: str) -> bytes:
        """The bytes; PictureRefused says why there are none."""
        head, comma, body = url.partition(",")
        if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
            raise PictureRefused("The picture's address is no data: URL. Give data:image/png;base64,….")
        try:
            return base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError) as error:
            raise PictureRefused("The data: URL is not valid base64. Encode the picture again.") from error
