"""The tables of a TIFF's first directory, counted before Pillow reads them."""

from __future__ import annotations

import struct
from typing import IO

from ..errors import ImageError

MAX_TILES = 1 << 20
"""Strips or tiles, which Pillow goes over one by one; the smallest that there are, 16×16, make 0.7 million of 179 megapixels."""
_STRIP_OFFSETS, _TILE_OFFSETS = 273, 324


def check_tables(file: IO[bytes]) -> None:
    """Raise ImageError for a TIFF of more strips or tiles than MAX_TILES; what is damaged is for Pillow to find."""
    try:
        tiles = _tiles(file)
    except (struct.error, OverflowError, ValueError, OSError):
        return
    if tiles > MAX_TILES:
        raise ImageError(f"The TIFF has {tiles:,} strips or tiles, more than {MAX_TILES:,}. Save it with larger ones.")


def _tiles(file: IO[bytes]) -> int:
    """The longest table of strips or tiles in the first directory; 0 of a file that is no TIFF."""
    file.seek(0)
    head = file.read(16)
    if head[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return 0
    order, big = "<" if head.startswith(b"II") else ">", b"+" in head[:4]
    number, entry, start = (f"{order}Q", f"{order}HHQ8x", 8) if big else (f"{order}H", f"{order}HHL4x", 4)
    (offset,) = struct.unpack_from(f"{order}{'Q' if big else 'L'}", head, start)
    file.seek(offset)
    (entries,) = struct.unpack(number, file.read(struct.calcsize(number)))
    longest = 0
    for _ in range(min(entries, 1 << 16)):
        if len(row := file.read(struct.calcsize(entry))) < struct.calcsize(entry):
            break  # Pillow takes what is there, too
        tag, _, count = struct.unpack(entry, row)
        longest = max(longest, count) if tag in (_STRIP_OFFSETS, _TILE_OFFSETS) else longest
    return longest
