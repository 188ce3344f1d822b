"""What the demo model is asked: pictures with questions and their one right answer, made from a task, a set and a number.

Nothing is stored: the same three give the same case, wherever the same Pillow and fonts draw it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from . import pictures
from .pictures import COLOURS, SHAPES, Canvas, Mark, Thing, new_canvas

Set = Literal["training", "held-out"]
_SETS: dict[str, int] = {"training": 0, "held-out": 1}
WORDS = tuple((Path(__file__).parent / "words.txt").read_text("utf-8").split())
"""Words to read, of four and five letters."""
_ITEMS = """
tea jam egg ham pie nut oil rice milk cake fish salt soup beef corn kiwi leek lime pear plum apple bread cocoa grape honey
juice lemon mango melon olive onion pasta peach pizza salad steak sugar toast water wine
"""
ITEMS = tuple(_ITEMS.split())
"""What receipts list."""
NUMBERS = ("none", "one", "two", "three", "four", "five", "six")
ORDINALS = ("first", "second", "third")


Place = tuple[int, float, float]
"""A conversation's picture by number, and the shares of its height and width above and left of a point in it."""


@dataclass(frozen=True)
class Turn:
    """A question, the pictures shown with it, and the right answer; and, for training, where to look for it."""

    question: str
    answer: str
    images: list[Image.Image] = field(default_factory=list)
    marks: list[list[Mark]] = field(default_factory=list)
    """Of each image, what lies where."""
    at: Place | None = None
    """What the question is about."""
    sought: dict[str, list[Place]] = field(default_factory=dict)
    """A word of the question that stands in the picture, and where its characters do."""
    read: list[Place] = field(default_factory=list)
    """Where the answer's characters stand, if they are read off the picture, in their order."""


@dataclass(frozen=True)
class Case:
    """A conversation; the answer to its last question counts."""

    task: str
    turns: list[Turn]
    others: list[Turn] = field(default_factory=list)
    """Other questions that training asks in the last one's place."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Up to the last question, in the reference's chat format, images inside."""
        found: list[dict[str, Any]] = []
        for turn in self.turns:
            images = [{"type": "image", "image": image} for image in turn.images]
            found.append({"role": "user", "content": [*images, {"type": "text", "text": turn.question}]})
            found.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
        return found[:-1]

    @property
    def answer(self) -> str:
        return self.turns[-1].answer


def case(task: str, which: Set, number: int, ease: float = 1.0) -> Case:
    """The case of that number; `ease` below 1 makes training's first cases simpler, from 0."""
    random = np.random.default_rng([_SETS[which], list(_TASKS).index(task), number])
    turns, others = _TASKS[task](random, ease)
    different = {turn.question: turn for turn in [*others, turns[-1]]}
    return Case(task, turns, [turn for turn in different.values() if turn is not turns[-1]])


def _snippet(random: np.random.Generator) -> str:
    kind = random.random()
    if kind < 0.3:
        return "".join(_pick(random, list(pictures.CHARACTERS[:-1])) for _ in range(int(random.integers(1, 5))))
    if kind < 0.4:
        return f"{random.integers(0, 10)}.{random.integers(0, 100):02}"
    return _text(random, 1.0)


def _zoom(random: np.random.Generator) -> int:
    """Some pictures are twice as large as the model sees them whole."""
    return 2 if random.random() < 0.15 else 1


def _pick(random: np.random.Generator, items: Any) -> Any:
    return items[int(random.integers(len(items)))]


def _things(random: np.random.Generator, count: int, distinct: bool = True) -> list[Thing]:
    """So many shapes in different cells, in reading order; distinct ones differ in colour or shape."""
    cells = sorted(random.choice(9, count, replace=False).tolist())
    if not distinct:
        return [Thing(_pick(random, list(COLOURS)), _pick(random, SHAPES), cell) for cell in cells]
    kinds = random.choice(len(COLOURS) * len(SHAPES), count, replace=False).tolist()
    return [
        Thing(list(COLOURS)[kind // len(SHAPES)], SHAPES[kind % len(SHAPES)], cell)
        for kind, cell in zip(kinds, cells, strict=True)
    ]


def _scene(random: np.random.Generator, things: list[Thing], side: int = 112) -> Canvas:
    side *= _zoom(random)
    width, height = _pick(random, [(side, side), (side, side), (side, side * 3 // 4), (side * 3 // 4, side)])
    canvas = new_canvas(random, width, height, [thing.colour for thing in things])
    for thing in things:
        canvas.draw_thing(thing)
    return canvas


def _show(turn: Turn, *canvases: Canvas) -> Turn:
    return replace(turn, images=[canvas.image for canvas in canvases], marks=[canvas.marks for canvas in canvases])


def _places(canvas: Canvas, marks: list[Mark]) -> list[Place]:
    """Of marks of the only picture."""
    width, height = canvas.image.size
    boxes = [mark.box for mark in marks]
    return [(0, (top + bottom) / 2 / height, (left + right) / 2 / width) for left, top, right, bottom in boxes]


def _article(name: str) -> str:
    return ("an " if name[0] in "aeiou" else "a ") + name


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _about(random: np.random.Generator, things: list[Thing], picture: int = 0) -> Turn:
    """A question about one of some things."""
    thing = _pick(random, things)
    kinds = ["what"] if sum(other.name == thing.name for other in things) > 1 else ["place", "what"]
    if sum(other.shape == thing.shape for other in things) == 1:
        kinds.append("colour")
    kind, at = _pick(random, kinds), _at(thing, picture)
    if kind == "place":
        return Turn(f"Where is the {thing.name}?", _sentence(f"it is {thing.place}"), at=at)
    if kind == "what":
        return Turn(f"What is {thing.place}?", _sentence(_article(thing.name)), at=at)
    return Turn(f"What colour is the {thing.shape}?", _sentence(f"the {thing.shape} is {thing.colour}"), at=at)


def _at(thing: Thing, picture: int = 0) -> Place:
    return picture, (thing.cell // 3 + 0.5) / 3, (thing.cell % 3 + 0.5) / 3


def _description(things: list[Thing]) -> Turn:
    return Turn("What is in the picture?", _sentence(_listed([f"{_article(thing.name)} {thing.place}" for thing in things])))


def _how_many(random: np.random.Generator, things: list[Thing]) -> Turn:
    kind = random.integers(3)
    if kind == 0:
        return Turn("How many shapes are there?", _sentence(NUMBERS[len(things)]))
    if kind == 1:
        shape = _pick(random, SHAPES) if random.random() < 0.2 else _pick(random, things).shape
        found = sum(thing.shape == shape for thing in things)
        return Turn(f"How many {shape}{'es' if shape == 'cross' else 's'} are there?", _sentence(NUMBERS[found]))
    colour = _pick(random, list(COLOURS)) if random.random() < 0.2 else _pick(random, things).colour
    return Turn(f"How many {colour} shapes are there?", _sentence(NUMBERS[sum(thing.colour == colour for thing in things)]))


def _is_there(random: np.random.Generator, things: list[Thing]) -> Turn:
    if random.random() < 0.4:
        thing = _pick(random, things)
        return Turn(f"Is there {_article(thing.name)}?", f"Yes, {thing.place}.", at=_at(thing))
    while True:  # half of what is missing is nearly there: its shape is, and maybe its colour
        near = random.random() < 0.5
        colour = _pick(random, things).colour if near and random.random() < 0.5 else _pick(random, list(COLOURS))
        shape = _pick(random, things).shape if near else _pick(random, SHAPES)
        if all(thing.name != f"{colour} {shape}" for thing in things):
            return Turn(f"Is there {_article(f'{colour} {shape}')}?", f"No, there is no {colour} {shape}.")


def _others(random: np.random.Generator, things: list[Thing]) -> list[Turn]:
    """More questions about a scene."""
    asked = [_description(things), *(_about(random, things) for _ in range(2)), *(_how_many(random, things) for _ in range(2))]
    return [*asked, _is_there(random, things)] if len({thing.name for thing in things}) == len(things) else asked


def _in_one(random: np.random.Generator, picture: int, things: list[Thing]) -> Turn:
    """A question about one of several pictures."""
    asked = _about(random, things, picture)
    return replace(asked, question=f"In the {ORDINALS[picture]} picture: {asked.question[0].lower()}{asked.question[1:]}")


_Turns = tuple[list[Turn], list[Turn]]
"""A conversation, and other questions in the place of its last."""


def _shapes(random: np.random.Generator, ease: float) -> _Turns:
    things = _things(random, int(random.integers(1, 2 + round(2 * ease))))
    canvas = _scene(random, things)
    asked = _description(things) if random.random() < 0.5 else _about(random, things)
    return [_show(asked, canvas)], _others(random, things)


def _counting(random: np.random.Generator, ease: float) -> _Turns:
    count = int(random.integers(1, 2 + round(5 * ease)))
    things = _things(random, count, distinct=False)
    if random.random() < 0.5:  # few kinds, so that there is something to count
        shapes = [_pick(random, SHAPES), _pick(random, SHAPES)]
        things = [Thing(thing.colour, _pick(random, shapes), thing.cell) for thing in things]
    canvas = _scene(random, things)
    return [_show(_how_many(random, things), canvas)], _others(random, things)


def _text(random: np.random.Generator, ease: float) -> str:
    if random.random() < 0.5:
        return "".join(str(digit) for digit in random.integers(0, 10, random.integers(1, 3 + round(3 * ease))))
    return str(_pick(random, WORDS))


def _ink(random: np.random.Generator, image: Image.Image) -> pictures.Colour:
    """A colour that stands off from the ground."""
    ground = np.asarray(image, np.float64).mean((0, 1))
    while True:
        colour = random.integers(0, 256, 3)
        if abs((colour - ground) @ (0.3, 0.59, 0.11)) > 90:
            return (int(colour[0]), int(colour[1]), int(colour[2]))


def _reading(random: np.random.Generator, ease: float) -> _Turns:
    """Text that is large enough to be read in the whole picture, too."""
    text, zoom = _text(random, ease), _zoom(random)
    width, height = (zoom * side for side in _pick(random, [(112, 84), (112, 112), (140, 84)]))
    canvas = new_canvas(random, width, height)
    while True:
        face = pictures.font(int(random.integers(pictures.num_fonts())), zoom * int(random.integers(18, 34)))
        wide, tall = pictures.text_size(text, face)
        if wide <= width - 8 * zoom:
            break
        text = text[: max(1, len(text) - 1)] if text.isdigit() else str(_pick(random, WORDS))
    x, y = random.uniform(3 * zoom, width - wide - 3 * zoom), random.uniform(8 * zoom, height - tall - 8 * zoom)
    canvas.draw_text(text, face, _ink(random, canvas.image), x, y, random.uniform(-7, 7) * min(1, ease * 2))
    question = _pick(random, ["What does it say?", "Read the text."])
    return [_show(Turn(question, text, read=_places(canvas, canvas.marks)), canvas)], []


def _small_text(random: np.random.Generator, ease: float) -> _Turns:
    """Text in one quarter, legible there and not in the whole picture, which shows it half as large."""
    text = _text(random, ease)
    canvas = new_canvas(random, 224, 168)
    _write_small(random, canvas, text, int(random.integers(2)), int(random.integers(2)))
    return [_show(Turn("What does the small text say?", text, read=_places(canvas, canvas.marks)), canvas)], []


def _write_small(random: np.random.Generator, canvas: Canvas, text: str, column: int, row: int) -> None:
    """In one quarter of a picture of 224 × 168."""
    face = pictures.font(int(random.integers(pictures.num_fonts())), int(random.integers(15, 19)))
    wide, tall = pictures.text_size(text, face)
    x, y = column * 112 + random.uniform(4, 108 - wide), row * 84 + random.uniform(8, 76 - tall)
    canvas.draw_text(text, face, _ink(random, canvas.image), x, y, random.uniform(-4, 4))


def _receipt(random: np.random.Generator, ease: float) -> _Turns:
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
        places = _places(canvas, canvas.marks[drawn:])
        named, read = places[: len(item)], places[len(item) :]
        asked.append(Turn(f"What does the {item} cost?", price, at=read[0], sought={item: named}, read=read))
        y += pitch
    fields = ", ".join(f'"{item}": "{price}"' for item, price in zip(items, prices, strict=True))
    first = Turn("Give the receipt as JSON.", "{" + fields + "}", read=_places(canvas, canvas.marks))
    if random.random() >= 0.3:
        first = asked.pop(int(random.integers(rows)))
    return [_show(first, canvas)], asked


def _comparing(random: np.random.Generator, ease: float) -> _Turns:
    if random.random() < 0.5:
        count = 2 if ease < 0.5 else int(random.integers(2, 4))
        kinds = _things(random, count)
        canvases = [_scene(random, [thing], 84) for thing in kinds]
        order = random.permutation(count).tolist()
        shown = [kinds[index] for index in order]
        asked = [
            Turn(f"Which picture shows {_article(thing.name)}?", _sentence(f"the {ORDINALS[i]} one"), at=_at(thing, i))
            for i, thing in enumerate(shown)
        ]
        first = asked.pop(int(random.integers(count)))
        return [_show(first, *(canvases[i] for i in order))], [*asked, _in_one(random, 0, shown[:1])]
    things = _things(random, int(random.integers(1, 2 + round(ease))))
    index = int(random.integers(len(things)))
    old, others_things = things[index], [thing for i, thing in enumerate(things) if i != index]
    kind = _pick(random, ["colour", "gone", "new", "nothing"])
    after, at = list(things), _at(old, 1)
    if kind == "colour":
        taken = {thing.colour for thing in things if thing.shape == old.shape}
        colour = _pick(random, [colour for colour in COLOURS if colour not in taken])
        after[index] = Thing(colour, old.shape, old.cell)
        changed = Turn("What changed?", _sentence(f"the {old.shape} turned from {old.colour} to {colour}"), at=at)
    elif kind == "gone":
        after = others_things
        changed = Turn("What changed?", _sentence(f"the {old.name} is gone"), at=_at(old))
    elif kind == "new":
        things, after = others_things, things
        changed = Turn("What changed?", _sentence(f"there is a new {old.name}"), at=at)
    else:
        changed = Turn("What changed?", _sentence("nothing changed"))
    state = random.bit_generator.state
    before = _scene(random, things, 84)
    random.bit_generator.state = state
    behind = _scene(random, after, 84)
    others = [_in_one(random, i, shown) for i, shown in enumerate((things, after)) if shown]
    return [_show(changed, before, behind)], others


def _follow_up(random: np.random.Generator, ease: float) -> _Turns:
    things = _things(random, int(random.integers(2, 3 + round(ease))))
    canvas = _scene(random, things)
    first = _show(_about(random, things), canvas)
    if random.random() < 0.5:
        return [first, _about(random, things)], _others(random, things)
    other = _things(random, int(random.integers(1, 3)))
    second = _show(_about(random, other, 1), _scene(random, other))
    others = [_in_one(random, picture, shown) for picture, shown in ((0, things), (1, other), (0, things), (0, things))]
    return [first, second, others[0]], others[1:]


def _absence(random: np.random.Generator, ease: float) -> _Turns:
    things = _things(random, int(random.integers(1, 2 + round(2 * ease))))
    canvas = _scene(random, things)
    return [_show(_is_there(random, things), canvas)], _others(random, things)


def _page(random: np.random.Generator, _: float) -> _Turns:
    """Full of text, which nothing is asked about."""
    zoom = 2 if random.random() < 0.3 else 1
    width, height = (zoom * side for side in _pick(random, [(112, 84), (112, 112), (140, 84)]))
    canvas = new_canvas(random, width, height)
    _write_lines(random, canvas, 99)
    return [_show(Turn("", ""), canvas)], []


def _lines(random: np.random.Generator, _: float) -> _Turns:
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
            width, height = _pick(random, [(112, 84), (112, 112), (140, 84)])
            canvas = new_canvas(random, width, height)
            texts = _write_lines(random, canvas, int(random.integers(1, 4)))
    return [_show(Turn("Read the text.", " ".join(texts), read=_places(canvas, canvas.marks)), canvas)], []


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


TRAINING_ONLY = ("page", "lines")
TASKS = ("shapes", "counting", "reading", "small text", "receipt", "comparing", "follow-up", "absence")
_TASKS: dict[str, Callable[[np.random.Generator, float], _Turns]] = {
    "shapes": _shapes,
    "counting": _counting,
    "reading": _reading,
    "small text": _small_text,
    "receipt": _receipt,
    "comparing": _comparing,
    "follow-up": _follow_up,
    "absence": _absence,
    "page": _page,
    "lines": _lines,
}
"""A case follows from its task's place here: new ones go last."""
