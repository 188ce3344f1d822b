"""Draw the pictures of `examples/` with their questions and right answers: `python -m idefics2_onnx.demo.examples FOLDER`.

None of them comes from the tasks' generator: sizes, arrangements and grounds are their own.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageFilter

from . import pictures
from .pictures import Canvas, Colour, Thing

QUESTIONS = "questions.json"


@dataclass(frozen=True)
class Example:
    """Pictures by file name, a question, and the right answer."""

    images: list[str]
    question: str
    answer: str


def draw(folder: Path) -> list[Example]:
    """Write the pictures."""
    random = np.random.default_rng(0)

    def plain(width: int, height: int, colour: Colour) -> Canvas:
        return Canvas(Image.new("RGB", (width, height), colour), random)

    def write(canvas: Canvas, name: str) -> str:
        canvas.image.save(folder / name, quality=92)
        return name

    shapes = plain(224, 224, (196, 200, 190))
    for thing in (Thing("red", "circle", 0), Thing("blue", "star", 5), Thing("green", "square", 7)):
        shapes.draw_thing(thing)
    found = [
        Example(
            [write(shapes, "shapes.png")],
            "What is in the picture?",
            "A red circle at the top left, a blue star on the right and a green square at the bottom.",
        ),
        Example(["shapes.png"], "Is there a red square?", "No, there is no red square."),
    ]

    stars = plain(336, 252, (70, 84, 110))
    for cell, colour in ((0, "yellow"), (2, "yellow"), (4, "white"), (6, "orange")):
        stars.draw_thing(Thing(colour, "star", cell))
    stars.draw_thing(Thing("red", "cross", 8))
    found.append(Example([write(stars, "stars.png")], "How many stars are there?", "Four."))

    sign = plain(280, 210, (28, 92, 64))
    sign.draw_text("house", pictures.font(1, 66), (250, 246, 230), 42, 66, 2)
    found.append(Example([write(sign, "sign.png")], "What does it say?", "house"))

    plate = plain(224, 168, (214, 208, 196))
    plate.draw_text("40721", pictures.font(5, 15), (40, 36, 60), 148, 112)
    found.append(Example([write(plate, "small-print.png")], "What does the small text say?", "40721"))

    receipt = plain(112, 112, (150, 140, 130))
    receipt.image.paste((252, 250, 244), (4, 4, 108, 108))
    for row, (item, price) in enumerate((("bread", "2.45"), ("milk", "1.19"), ("apple", "0.80"), ("tea", "3.60"))):
        face = pictures.font(0, 15)
        receipt.draw_text(item, face, (30, 30, 40), 9, 12 + 23 * row)
        receipt.draw_text(price, face, (30, 30, 40), 103 - pictures.text_size(price, face)[0], 12 + 23 * row)
    found.append(Example([write(receipt, "receipt.png")], "What does the milk cost?", "1.19"))
    answer = '{"bread": "2.45", "milk": "1.19", "apple": "0.80", "tea": "3.60"}'
    found.append(Example(["receipt.png"], "Give the receipt as JSON.", answer))

    pair = [Thing("white", "circle", 3), Thing("purple", "triangle", 2)]
    for name, things in (("before.png", pair), ("after.png", pair[:1])):
        random = np.random.default_rng(5)
        canvas = plain(168, 126, (120, 140, 150))
        canvas.random = random
        for thing in things:
            canvas.draw_thing(thing)
        write(canvas, name)
    found.append(Example(["before.png", "after.png"], "What changed?", "The purple triangle is gone."))

    found.append(Example([write(_table_top(), "table-top.jpg")], "What is on the left?", "An orange cross."))
    return found


def _table_top() -> Canvas:
    """Something like a photo: a table in uneven light, out of focus, with shadows, noise and a lens darker at its rim."""
    random = np.random.default_rng(3)
    width, height = 640, 480
    grain = random.normal(0, 1, (height, 24)).repeat(27, 1)[:, :width]
    wood = np.array([150, 118, 92]) + 9 * grain[..., None] * (1, 0.8, 0.6)
    ground = Image.fromarray(np.clip(wood, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(4))
    canvas = Canvas(ground, random, shadows=True)
    for thing in (Thing("orange", "cross", 3), Thing("blue", "circle", 1), Thing("white", "square", 8)):
        canvas.draw_thing(thing)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    light = 1.05 - 0.22 * (x**2 + y**2) + 0.1 * x
    pixels = np.asarray(canvas.image.filter(ImageFilter.GaussianBlur(1.2))) * light[..., None] + random.normal(
        0, 4, (height, width, 1)
    )
    canvas.image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return canvas


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
def main(folder: Path) -> None:
    """Draw the pictures into FOLDER, and their questions into FOLDER/questions.json."""
    found = [asdict(example) for example in draw(folder)]
    (folder / QUESTIONS).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
