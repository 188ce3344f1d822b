"""The tables of a TIFF's first directory, counted before Pillow reads them."""

from __future__ import annotations

import struct
from typing import IO

from .errors import ImageError

MAX_TILES = 1 << 20
"""Strips or tiles, which Pillow goes over one by one; the smallest that there are, 16×16, make 0.7 million of 179 megapixels."""
_STRIP_OFFSETS, _TILE_OFFSETS = 273, 324


def check_tables(file: IO[bytes]) -> None:
    """Raise ImageError for a TIFF of more strips or tiles than MAX_TILES; what is damaged is for Pillow to find."""
    file.seek(0)
    head = file.read(16)
    if head[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return
    order, big = "<" if head.startswith(b"II") else ">", b"+" in head[:4]
    count_form, entry_form, first = (f"{order}Q", f"{order}HHQ8x", 8) if big else (f"{order}H", f"{order}HHL4x", 4)
    try:
        (offset,) = struct.unpack_from(f"{order}{'Q' if big else 'L'}", head, first)
        file.seek(offset)
        (entries,) = struct.unpack(count_form, file.read(struct.calcsize(count_form)))
        for _ in range(min(entries, 1 << 16)):
            tag, _, count = struct.unpack(entry_form, file.read(struct.calcsize(entry_form)))
            if tag in (_STRIP_OFFSETS, _TILE_OFFSETS) and count > MAX_TILES:
                raise ImageError(f"The TIFF has {count:,} strips or tiles, more than {MAX_TILES:,}. Save it with larger ones.")
    except (struct.error, OverflowError, ValueError, OSError):
        return
