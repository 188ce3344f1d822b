"""The error of a picture that a request may not have."""

from __future__ import annotations

from ..errors import ImageError


class PictureRefused(ImageError):  # noqa: N818 - says what the server did
    """What a request calls a picture was not taken: its address, its type or its size.

    The message is one fact and what to do, fit for a stranger: nothing in it depends on which files this machine has.
    """
