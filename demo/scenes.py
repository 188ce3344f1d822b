"""Questions about drawn shapes: what, where, how many, which picture, what changed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .pictures import COLOURS, SHAPES, Canvas, Thing, new_canvas
from .turn import Place, Turn, Turns, pick, pick_zoom, show

NUMBERS = ("none", "one", "two", "three", "four", "five", "six")
ORDINALS = ("first", "second", "third")


def shapes(random: np.random.Generator, ease: float) -> Turns:
    things = _things(random, int(random.integers(1, 2 + round(2 * ease))))
    canvas = _scene(random, things)
    asked = _description(things) if random.random() < 0.5 else _about(random, things)
    return [show(asked, canvas)], _others(random, things)


def counting(random: np.random.Generator, ease: float) -> Turns:
    count = int(random.integers(1, 2 + round(5 * ease)))
    things = _things(random, count, distinct=False)
    if random.random() < 0.5:  # few kinds, so that there is something to count
        shapes = [pick(random, SHAPES), pick(random, SHAPES)]
        things = [Thing(thing.colour, pick(random, shapes), thing.cell) for thing in things]
    canvas = _scene(random, things)
    return [show(_how_many(random, things), canvas)], _others(random, things)


def comparing(random: np.random.Generator, ease: float) -> Turns:
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
        return [show(first, *(canvases[i] for i in order))], [*asked, _in_one(random, 0, shown[:1])]
    things = _things(random, int(random.integers(1, 2 + round(ease))))
    index = int(random.integers(len(things)))
    old, others_things = things[index], [thing for i, thing in enumerate(things) if i != index]
    kind = pick(random, ["colour", "gone", "new", "nothing"])
    after, at = list(things), _at(old, 1)
    if kind == "colour":
        taken = {thing.colour for thing in things if thing.shape == old.shape}
        colour = pick(random, [colour for colour in COLOURS if colour not in taken])
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
    return [show(changed, before, behind)], others


def follow_up(random: np.random.Generator, ease: float) -> Turns:
    things = _things(random, int(random.integers(2, 3 + round(ease))))
    canvas = _scene(random, things)
    first = show(_about(random, things), canvas)
    if random.random() < 0.5:
        return [first, _about(random, things)], _others(random, things)
    other = _things(random, int(random.integers(1, 3)))
    second = show(_about(random, other, 1), _scene(random, other))
    others = [_in_one(random, picture, shown) for picture, shown in ((0, things), (1, other), (0, things), (0, things))]
    return [first, second, others[0]], others[1:]


def absence(random: np.random.Generator, ease: float) -> Turns:
    things = _things(random, int(random.integers(1, 2 + round(2 * ease))))
    canvas = _scene(random, things)
    return [show(_is_there(random, things), canvas)], _others(random, things)


def _things(random: np.random.Generator, count: int, distinct: bool = True) -> list[Thing]:
    """So many shapes in different cells, in reading order; distinct ones differ in colour or shape."""
    cells = sorted(random.choice(9, count, replace=False).tolist())
    if not distinct:
        return [Thing(pick(random, list(COLOURS)), pick(random, SHAPES), cell) for cell in cells]
    kinds = random.choice(len(COLOURS) * len(SHAPES), count, replace=False).tolist()
    return [
        Thing(list(COLOURS)[kind // len(SHAPES)], SHAPES[kind % len(SHAPES)], cell)
        for kind, cell in zip(kinds, cells, strict=True)
    ]


def _scene(random: np.random.Generator, things: list[Thing], side: int = 112) -> Canvas:
    side *= pick_zoom(random)
    width, height = pick(random, [(side, side), (side, side), (side, side * 3 // 4), (side * 3 // 4, side)])
    canvas = new_canvas(random, width, height, [thing.colour for thing in things])
    for thing in things:
        canvas.draw_thing(thing)
    return canvas


def _about(random: np.random.Generator, things: list[Thing], picture: int = 0) -> Turn:
    """A question about one of some things."""
    thing = pick(random, things)
    kinds = ["what"] if sum(other.name == thing.name for other in things) > 1 else ["place", "what"]
    if sum(other.shape == thing.shape for other in things) == 1:
        kinds.append("colour")
    kind, at = pick(random, kinds), _at(thing, picture)
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
        shape = pick(random, SHAPES) if random.random() < 0.2 else pick(random, things).shape
        found = sum(thing.shape == shape for thing in things)
        return Turn(f"How many {shape}{'es' if shape == 'cross' else 's'} are there?", _sentence(NUMBERS[found]))
    colour = pick(random, list(COLOURS)) if random.random() < 0.2 else pick(random, things).colour
    return Turn(f"How many {colour} shapes are there?", _sentence(NUMBERS[sum(thing.colour == colour for thing in things)]))


def _is_there(random: np.random.Generator, things: list[Thing]) -> Turn:
    if random.random() < 0.4:
        thing = pick(random, things)
        return Turn(f"Is there {_article(thing.name)}?", f"Yes, {thing.place}.", at=_at(thing))
    while True:  # half of what is missing is nearly there: its shape is, and maybe its colour
        near = random.random() < 0.5
        colour = pick(random, things).colour if near and random.random() < 0.5 else pick(random, list(COLOURS))
        shape = pick(random, things).shape if near else pick(random, SHAPES)
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


def _article(name: str) -> str:
    return ("an " if name[0] in "aeiou" else "a ") + name


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."
