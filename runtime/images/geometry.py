"""Where an image is cut and how large its tiles become: arithmetic on integers, before any pixel is touched.

Source: transformers 5.23, image_processing_pil_idefics2.py. The float division is the reference's and decides some sizes.
"""

from __future__ import annotations

from typing import NamedTuple


class Size(NamedTuple):
    """Height and width in pixels."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.width}×{self.height}"


class Box(NamedTuple):
    """A rectangle of an image, in Pillow's order; right and lower are exclusive."""

    left: int
    upper: int
    right: int
    lower: int

    @property
    def size(self) -> Size:
        return Size(self.lower - self.upper, self.right - self.left)


def tile_boxes(size: Size, split: bool) -> list[Box]:
    """The whole image, preceded by its four quarters (top left, top right, bottom left, bottom right) when it is split."""
    whole = Box(0, 0, size.width, size.height)
    if not split:
        return [whole]
    x, y = size.width // 2, size.height // 2
    columns, rows = ((0, x), (x, size.width)), ((0, y), (y, size.height))
    return [Box(left, upper, right, lower) for upper, lower in rows for left, right in columns] + [whole]


def resized(size: Size, shortest_edge: int, longest_edge: int) -> Size:
    """Shrink to the longest edge keeping the ratio, then raise each side to the shortest edge (which may distort)."""
    height, width = size
    ratio = width / height
    if width >= height and width > longest_edge:
        width, height = longest_edge, int(longest_edge / ratio)
    elif height > width and height > longest_edge:
        height, width = longest_edge, int(longest_edge * ratio)
    return Size(max(height, shortest_edge), max(width, shortest_edge))
