"""Questions about what is written: words and numbers, large and small, and receipts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from . import pictures
from .pictures import Canvas, new_canvas
from .turn import Turn, Turns, pick, pick_zoom, places_of, show

WORDS = tuple((Path(__file__).parent / "words.txt").read_text("utf-8").split())
"""Words to read, of four and five letters."""
_ITEMS = """
tea jam egg ham pie nut oil rice milk cake fish salt soup beef corn kiwi leek lime pear plum apple bread cocoa grape honey
juice lemon mango melon olive onion pasta peach pizza salad steak sugar toast water wine
"""
ITEMS = tuple(_ITEMS.split())
"""What receipts list."""


def reading(random: np.random.Generator, ease: float) -> Turns:
    """Text that is large enough to be read in the whole picture, too."""
    text, zoom = _text(random, ease), pick_zoom(random)
    width, height = (zoom * side for side in pick(random, [(112, 84), (112, 112), (140, 84)]))
    canvas = new_canvas(random, width, height)
    while True:
        face = pictures.font(int(random.integers(pictures.num_fonts())), zoom * int(random.integers(18, 34)))
        wide, tall = pictures.text_size(text, face)
        if wide <= width - 8 * zoom:
            break
        text = text[: max(1, len(text) - 1)] if text.isdigit() else str(pick(random, WORDS))
    x, y = random.uniform(3 * zoom, width - wide - 3 * zoom), random.uniform(8 * zoom, height - tall - 8 * zoom)
    canvas.draw_text(text, face, _ink(random, canvas.image), x, y, random.uniform(-7, 7) * min(1, ease * 2))
    question = pick(random, ["What does it say?", "Read the text."])
    return [show(Turn(question, text, read=places_of(canvas, canvas.marks)), canvas)], []


def small_text(random: np.random.Generator, ease: float) -> Turns:
    """Text in one quarter, legible there and not in the whole picture, which shows it half as large."""
    text = _text(random, ease)
    canvas = new_canvas(random, 224, 168)
    _write_small(random, canvas, text, int(random.integers(2)), int(random.integers(2)))
    return [show(Turn("What does the small text say?", text, read=places_of(canvas, canvas.marks)), canvas)], []


def receipt(random: np.random.Generator, ease: float) -> Turns:
    rows = int(random.integers(2, 3 + round(2 * ease)))
    items = [str(item) for item in random.choice(ITEMS, rows, replace=False)]
    prices = [f"{random.integers(0, 10)}.{random.integers(0, 100):02}" for _ in items]
    canvas = new_canvas(random, 112, 112)
    ground = Image.new("RGB", (104, 104), tuple(int(v) for v in random.integers(225, 256, 3)))
    canvas.image.paste(ground, (4, 4))
    widest = 0.0
    while not 0 < widest <= 94:
        face = pictures.font(int(random.integers(pictures.num_fonts())), int(random.integers(14, 18)))
        widest = max(pictures.text_size(f"{item} {price}", face)[0] for item, price in zip(items, prices, strict=True))
    ink = _ink(random, ground)
    pitch = random.uniform(19, 25)
    y = 8 + random.uniform(0, max(0.0, 96 - pitch * rows))
    asked = []
    for item, price in zip(items, prices, strict=True):
        drawn = len(canvas.marks)
        canvas.draw_text(item, face, ink, 9, y)
        canvas.draw_text(price, face, ink, 103 - pictures.text_size(price, face)[0], y)
        places = places_of(canvas, canvas.marks[drawn:])
        named, read = places[: len(item)], places[len(item) :]
        asked.append(Turn(f"What does the {item} cost?", price, at=read[0], sought={item: named}, read=read))
        y += pitch
    fields = ", ".join(f'"{item}": "{price}"' for item, price in zip(items, prices, strict=True))
    first = Turn("Give the receipt as JSON.", "{" + fields + "}", read=places_of(canvas, canvas.marks))
    if random.random() >= 0.3:
        first = asked.pop(int(random.integers(rows)))
    return [show(first, canvas)], asked


def page(random: np.random.Generator, _: float) -> Turns:
    """Full of text, which nothing is asked about."""
    zoom = 2 if random.random() < 0.3 else 1
    width, height = (zoom * side for side in pick(random, [(112, 84), (112, 112), (140, 84)]))
    canvas = new_canvas(random, width, height)
    _write_lines(random, canvas, 99)
    return [show(Turn("", ""), canvas)], []


def lines(random: np.random.Generator, _: float) -> Turns:
    """Some lines, or some of small text in the quarters."""
    if random.random() < 0.4:
        canvas = new_canvas(random, 224, 168)
        places = sorted(random.choice(4, int(random.integers(1, 5)), replace=False).tolist())
        texts = [_text(random, 1.0) for _ in places]
        for text, place in zip(texts, places, strict=True):
            _write_small(random, canvas, text, place % 2, place // 2)
    else:
        texts = []
        while not texts:  # a canvas may be too low for what is drawn
            width, height = pick(random, [(112, 84), (112, 112), (140, 84)])
            canvas = new_canvas(random, width, height)
            texts = _write_lines(random, canvas, int(random.integers(1, 4)))
    return [show(Turn("Read the text.", " ".join(texts), read=places_of(canvas, canvas.marks)), canvas)], []


def _write_small(random: np.random.Generator, canvas: Canvas, text: str, column: int, row: int) -> None:
    """In one quarter of a picture of 224 × 168."""
    face = pictures.font(int(random.integers(pictures.num_fonts())), int(random.integers(15, 19)))
    wide, tall = pictures.text_size(text, face)
    x, y = column * 112 + random.uniform(4, 108 - wide), row * 84 + random.uniform(8, 76 - tall)
    canvas.draw_text(text, face, _ink(random, canvas.image), x, y, random.uniform(-4, 4))


def _write_lines(random: np.random.Generator, canvas: Canvas, most: int) -> list[str]:
    """From top to bottom."""
    (width, height), y = canvas.image.size, random.uniform(1, 12)
    texts: list[str] = []
    while len(texts) < most:
        size = int(random.integers(14, 34)) if random.random() < 0.5 else int(random.integers(14, 20))
        face = pictures.font(int(random.integers(pictures.num_fonts())), size)
        degrees, x, text = random.uniform(-6, 6), random.uniform(1, 12), ""
        while (longer := f"{text} {_snippet(random)}".strip()) and pictures.text_size(longer, face)[0] < width - x:
            text = longer
        if y + size > height:
            break
        if text:
            canvas.draw_text(text, face, _ink(random, canvas.image), x, y, degrees * min(1.0, 60 / len(text) / size))
            texts.append(text)
        y += size * random.uniform(1.1, 1.5)
    return texts


def _text(random: np.random.Generator, ease: float) -> str:
    if random.random() < 0.5:
        return "".join(str(digit) for digit in random.integers(0, 10, random.integers(1, 3 + round(3 * ease))))
    return str(pick(random, WORDS))


def _snippet(random: np.random.Generator) -> str:
    kind = random.random()
    if kind < 0.3:
        return "".join(pick(random, list(pictures.CHARACTERS[:-1])) for _ in range(int(random.integers(1, 5))))
    if kind < 0.4:
        return f"{random.integers(0, 10)}.{random.integers(0, 100):02}"
    return _text(random, 1.0)


def _ink(random: np.random.Generator, image: Image.Image) -> pictures.Colour:
    """A colour that stands off from the ground."""
    ground = np.asarray(image, np.float64).mean((0, 1))
    while True:
        colour = random.integers(0, 256, 3)
        if abs((colour - ground) @ (0.3, 0.59, 0.11)) > 90:
            return (int(colour[0]), int(colour[1]), int(colour[2]))
