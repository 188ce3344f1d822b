"""What the model sees of images: the tiles in order, their padding and their cost in tokens, as numbers and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..image_tokens import tokens_with_fakes
from ..images.file import upright_rgb
from ..images.geometry import Box, Size, tile_boxes
from ..images.source import ImageSource, open_image
from ..sample import Tile
from .processor import Processor

PLACES = ("top left", "top right", "bottom left", "bottom right", "whole")
_THUMBNAIL = 240
"""Longest side of a drawn tile, in pixels."""
_GAP, _LINE = 16, 18
_PAPER, _INK, _HATCH = (255, 255, 255), (40, 40, 40), (214, 120, 60)


@dataclass(frozen=True)
class TilePreview:
    """One tile of an image."""

    place: str
    box: Box
    """The part of the image it shows."""
    size: Size
    """Its size for the model."""
    tokens: int


@dataclass(frozen=True)
class ImagePreview:
    """One image: its tiles and all of its tokens, the fake ones around the tiles included."""

    size: Size
    tiles: list[TilePreview]
    tokens: int


@dataclass(frozen=True)
class Preview:
    """Images as those of one prompt."""

    images: list[ImagePreview]
    padded_size: Size
    """Size of every tile in the padded batch."""
    pixels: NDArray[np.uint8]
    """[num_tiles, 3, height, width], padded."""
    mask: NDArray[np.int64]
    """[num_tiles, height, width]"""

    def to_dict(self) -> dict[str, Any]:
        """Numbers only."""
        return {
            "images": [
                {
                    "size": image.size._asdict(),
                    "tokens": image.tokens,
                    "tiles": [
                        {"place": t.place, "box": t.box._asdict(), "size": t.size._asdict(), "tokens": t.tokens}
                        for t in image.tiles
                    ],
                }
                for image in self.images
            ],
            "padded_size": self.padded_size._asdict(),
            "tokens": sum(image.tokens for image in self.images),
        }


def preview(processor: Processor, sources: Sequence[ImageSource], **image_options: Any) -> Preview:
    """Process images as for one prompt. ImageError, PromptError as from the processor."""
    reader = processor.image_processor
    opened = [open_image(source, reader.allow_urls) for source in sources]
    images = [upright_rgb(image) if reader.upright and isinstance(image, Image.Image) else image for image in opened]
    options = reader.options.replace(**image_options | {"do_rescale": False, "do_normalize": False, "do_convert_rgb": True})
    pixels, mask = _padded([tile for own in reader.tiles(images, options) for tile in own])
    sizes = iter([Size(int(own.any(1).sum()), int(own.any(0).sum())) for own in mask])
    split = options.do_image_splitting
    found = []
    for image in images:
        height, width = (image.height, image.width) if isinstance(image, Image.Image) else _array_size(image)
        boxes = tile_boxes(Size(height, width), split)
        places = PLACES if split else PLACES[-1:]
        tiles = [TilePreview(p, box, next(sizes), processor.image_seq_len) for p, box in zip(places, boxes, strict=True)]
        tokens = tokens_with_fakes(len(tiles), processor.image_seq_len)
        found.append(ImagePreview(Size(height, width), tiles, tokens))
    return Preview(found, Size(*mask.shape[1:]), pixels.astype(np.uint8), mask)


def _padded(tiles: Sequence[Tile]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Tiles in one array, padded right and below, and its mask."""
    height, width = (max(tile.shape[axis] for tile in tiles) for axis in (1, 2))
    pixels, mask = np.zeros((len(tiles), 3, height, width), np.float32), np.zeros((len(tiles), height, width), np.int64)
    for place, tile in enumerate(tiles):
        pixels[place, :, : tile.shape[1], : tile.shape[2]] = tile
        mask[place, : tile.shape[1], : tile.shape[2]] = 1
    return pixels, mask


def draw(shown: Preview, names: Sequence[str]) -> Image.Image:
    """One row per image: its tiles in order, padding hatched, each with its place, size and tokens."""
    scale = min(1.0, _THUMBNAIL / max(shown.padded_size))
    cell = Size(max(1, round(shown.padded_size.height * scale)), max(1, round(shown.padded_size.width * scale)))
    width = max(cell.width, 11 * _LINE)
    columns = max(len(image.tiles) for image in shown.images)
    row_height = _LINE + cell.height + 2 * _LINE + _GAP
    paper = Image.new("RGB", (_GAP + columns * (width + _GAP), _GAP + len(shown.images) * row_height), _PAPER)
    pen, font = ImageDraw.Draw(paper), ImageFont.load_default(size=13)
    index = 0
    for row, (image, name) in enumerate(zip(shown.images, names, strict=True)):
        top = _GAP + row * row_height
        pen.text((_GAP, top), _caption(name, image), fill=_INK, font=font)
        for column, tile in enumerate(image.tiles):
            left, upper = _GAP + column * (width + _GAP), top + _LINE
            thumbnail = Image.fromarray(np.moveaxis(shown.pixels[index], 0, -1)).resize((cell.width, cell.height))
            paper.paste(thumbnail, (left, upper))
            _hatch(paper, (left, upper), cell, Size(round(tile.size.height * scale), round(tile.size.width * scale)))
            pen.text((left, upper + cell.height + 2), f"{column + 1} {tile.place}", fill=_INK, font=font)
            pen.text((left, upper + cell.height + 2 + _LINE), _caption("", tile), fill=_INK, font=font)
            index += 1
    return paper


def _caption(name: str, shown: ImagePreview | TilePreview) -> str:
    """Size and tokens; Pillow's own font has no multiplication sign."""
    size = f"{shown.size.width} x {shown.size.height}, {shown.tokens} tokens"
    return f"{name}: {size}" if name else size


def _hatch(paper: Image.Image, corner: tuple[int, int], cell: Size, filled: Size) -> None:
    """Hatch what of a cell, right of and below its filled part, is padding."""
    rows, columns = np.mgrid[: cell.height, : cell.width]
    padding = (rows >= filled.height) | (columns >= filled.width)
    lines = padding & ((rows + columns) % 8 < 2)
    mask = Image.fromarray((padding * 255).astype(np.uint8))
    paper.paste(_PAPER, corner, mask)
    paper.paste(_HATCH, corner, Image.fromarray((lines * 255).astype(np.uint8)))


def _array_size(image: NDArray[Any]) -> Size:
    return Size(*image.shape[1:]) if image.shape[0] in (1, 3, 4) else Size(*image.shape[:2])
