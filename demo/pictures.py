"""Drawing: shapes on a canvas, text in several fonts, receipts; and what lies where, for training's side task."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]

COLOURS: dict[str, Colour] = {
    "red": (215, 40, 40), "green": (40, 160, 60), "blue": (40, 80, 220), "yellow": (235, 210, 40), "orange": (240, 130, 30),
    "purple": (140, 50, 180), "black": (20, 20, 20), "white": (248, 248, 248),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "star", "cross")
PLACES = (
    "at the top left", "at the top", "at the top right", "on the left", "in the middle", "on the right", "at the bottom left",
    "at the bottom", "at the bottom right",
)  # fmt: skip
"""Cells of a canvas, row by row."""
CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyz."
_FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSansMono",
    "DejaVuSansMono-Bold", "STIXGeneral", "STIXGeneralBol", "cmss10",
)  # fmt: skip
"""They come with matplotlib."""


@dataclass(frozen=True)
class Thing:
    """A shape in a cell."""

    colour: str
    shape: str
    cell: int

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def place(self) -> str:
        return PLACES[self.cell]


@dataclass(frozen=True)
class Mark:
    """What lies in a box of the canvas: a class of `mark_classes`."""

    box: Box
    label: int


@dataclass
class Canvas:
    """A picture in the making."""

    image: Image.Image
    random: np.random.Generator
    shadows: bool = False
    marks: list[Mark] = field(default_factory=list)

    def draw_thing(self, thing: Thing) -> None:
        """Put a shape near the middle of its cell."""
        width, height = self.image.size
        cell_width, cell_height = width / 3, height / 3
        radius = min(cell_width, cell_height) * self.random.uniform(0.26, 0.4)
        slack_x, slack_y = cell_width / 2 - radius - 1, cell_height / 2 - radius - 1
        x = (thing.cell % 3 + 0.5) * cell_width + self.random.uniform(-slack_x, slack_x)
        y = (thing.cell // 3 + 0.5) * cell_height + self.random.uniform(-slack_y, slack_y)
        mask = shape_mask(thing.shape, radius)
        corner = round(x - mask.width / 2), round(y - mask.height / 2)
        if self.shadows:
            shade = mask.filter(ImageFilter.GaussianBlur(1.5)).point(lambda value: value * 0.35)
            self.image.paste((0, 0, 0), (corner[0] + 2, corner[1] + 3), shade)
        self.image.paste(COLOURS[thing.colour], corner, mask)
        label = 1 + len(CHARACTERS) + list(COLOURS).index(thing.colour) * len(SHAPES) + SHAPES.index(thing.shape)
        self.marks.append(Mark((x - radius, y - radius, x + radius, y + radius), label))

    def draw_text(self, text: str, font: ImageFont.FreeTypeFont, ink: Colour, x: float, y: float, degrees: float = 0.0) -> None:
        """Write a line with its upper left corner at x, y before it is turned about its middle."""
        width, height = text_size(text, font)
        middle_x, middle_y = x + width / 2, y + height / 2
        mask = Image.new("L", self.image.size)
        left, top, _, _ = font.getbbox(text)
        ImageDraw.Draw(mask).text((x - left, y - top), text, font=font, fill=255)
        if degrees:
            mask = mask.rotate(degrees, Image.Resampling.BICUBIC, center=(middle_x, middle_y))
        self.image.paste(Image.new("RGB", self.image.size, ink), mask=mask)
        cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        for index, character in enumerate(text):
            start, stop = font.getlength(text[:index]), font.getlength(text[: index + 1])
            along = x + (start + stop) / 2 - middle_x
            centre_x, centre_y = middle_x + along * cosine, middle_y - along * sine
            half = (stop - start) / 2
            if character in CHARACTERS:
                box = (centre_x - half, centre_y - height * 0.7, centre_x + half, centre_y + height * 0.7)
                self.marks.append(Mark(box, 1 + CHARACTERS.index(character)))


def mark_classes() -> int:
    """Nothing, each character, each shape of each colour."""
    return 1 + len(CHARACTERS) + len(COLOURS) * len(SHAPES)


def new_canvas(random: np.random.Generator, width: int, height: int, avoid: list[str] | None = None) -> Canvas:
    """A plain, graded, blotchy or grainy ground, unlike the colours that will be drawn on it."""
    base = ground_colour(random, avoid or [])
    kind = random.integers(4)
    if kind == 3:  # like a photo out of focus
        spots = base + random.integers(-30, 31, (4, 5, 3)) * (0.5, 0.5, 0.5) + random.integers(-30, 31, (4, 5, 1)) * 0.5
        coarse = Image.fromarray(np.clip(spots, 0, 255).astype(np.uint8))
        pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float64)
    else:
        other = np.clip(base + random.integers(-30, 31, 3), 0, 255)
        across, down = np.linspace(0, 1, width)[None, :, None], np.linspace(0, 1, height)[:, None, None]
        ramp = (np.zeros((1, 1, 1)), across, down)[kind]
        pixels = base + (other - base) * np.broadcast_to(ramp, (height, width, 1))
    if random.random() < 0.5:
        pixels = pixels + random.normal(0, random.uniform(1, 6), (height, width, 1))
    return Canvas(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), random, shadows=random.random() < 0.3)


def ground_colour(random: np.random.Generator, avoid: list[str]) -> np.ndarray:
    """A muted colour that stands off from some named ones."""
    while True:
        grey = random.integers(60, 236)
        colour = np.clip(grey + random.integers(-22, 23, 3), 0, 255)
        if all(np.abs(colour - np.array(COLOURS[name])).max() > 45 for name in avoid):
            return colour


def shape_mask(shape: str, radius: float) -> Image.Image:
    """A filled shape of that radius; drawn four times as large and made smaller, for smooth edges."""
    zoom = 4
    side = int(2 * radius + 4)
    mask = Image.new("L", (side * zoom, side * zoom))
    draw, middle, r = ImageDraw.Draw(mask), side * zoom / 2, radius * zoom
    box = (middle - r, middle - r, middle + r, middle + r)
    if shape == "circle":
        draw.ellipse(box, fill=255)
    elif shape == "square":
        draw.rectangle((middle - 0.88 * r, middle - 0.88 * r, middle + 0.88 * r, middle + 0.88 * r), fill=255)
    elif shape == "triangle":
        draw.polygon([(middle - r, middle + 0.85 * r), (middle + r, middle + 0.85 * r), (middle, middle - r)], fill=255)
    elif shape == "star":
        angles = np.arange(10) * np.pi / 5 - np.pi / 2
        reach = np.where(np.arange(10) % 2 == 0, r, 0.42 * r)
        draw.polygon([(middle + d * np.cos(a), middle + d * np.sin(a)) for d, a in zip(reach, angles, strict=True)], fill=255)
    else:
        thin = 0.32 * r
        draw.rectangle((middle - r, middle - thin, middle + r, middle + thin), fill=255)
        draw.rectangle((middle - thin, middle - r, middle + thin, middle + r), fill=255)
    return mask.resize((side, side), Image.Resampling.BOX)


@cache
def font(index: int, size: int) -> ImageFont.FreeTypeFont:
    """One of the fonts, in pixels."""
    return ImageFont.truetype(_font_folder() / f"{_FONTS[index]}.ttf", size)


def num_fonts() -> int:
    return len(_FONTS)


@cache
def _font_folder() -> Path:
    try:
        import matplotlib as mpl
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("The demo's pictures use matplotlib's fonts. pip install 'idefics2-onnx[bench]'.") from error
    return Path(mpl.get_data_path()) / "fonts" / "ttf"


def text_size(text: str, face: ImageFont.FreeTypeFont) -> tuple[float, float]:
    """Width and height of a line."""
    left, top, right, bottom = face.getbbox(text)
    return right - left, bottom - top
