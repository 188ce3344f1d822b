"""What training takes: cases as tokens and padded tiles, in batches that follow from their numbers alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ..runtime.image_tokens import END_OF_UTTERANCE, IMAGE
from ..runtime.images.geometry import Box, Size, tile_boxes
from ..runtime.images.idefics2_image_processor import Idefics2ImageProcessor
from ..runtime.sample import Tile
from ..runtime.text.prompt import expand_images
from .architecture import IMAGE_OPTIONS, LATENTS, PATCH, SIDE
from .pictures import CHARACTERS, Mark
from .tasks import TASKS, Case, Set, case
from .tokenizer import demo_tokenizer
from .turn import Place, Turn

SHARES = {
    "shapes": 0.06, "counting": 0.1, "reading": 0.16, "small text": 0.16, "lines": 0.2, "receipt": 0.12, "comparing": 0.13,
    "follow-up": 0.13, "absence": 0.04,
}  # fmt: skip
"""Weights of the tasks."""
SEVERAL = ("comparing", "follow-up")
EYES, EYES_SHARES = 2000, {"page": 0.6, "counting": 0.16, "reading": 0.12, "small text": 0.06, "receipt": 0.06}
"""Steps in which only encoder and connector learn, and what they see."""
RAMP = 1500
"""Steps after those until cases are as hard as they get."""


_NOWHERE = (-100, -100, -100)


@dataclass(frozen=True)
class Tiles:
    """Tiles padded to one size, the last of them repeated up to a round number: kernels are made anew for every new shape."""

    pixels: Tensor
    """float32 [tiles, 3, side, side]."""
    mask: Tensor
    """Which patches are the tile's own, bool [tiles, side / 14, side / 14]."""
    under: Tensor
    """What lies under each patch's left and right half, int64 [tiles, patches, 2], −100 at padding."""
    places: list[int]
    """Which of the batch's tiles the first ones are, in the order of its image tokens."""


@dataclass(frozen=True)
class Batch:
    """Conversations as training takes them."""

    ids: Tensor
    """int64 [batch, seq], padded on the right."""
    positions: Tensor
    """int64 [batch, seq]: every question follows the pictures."""
    parts: Tensor
    """int64 [batch, seq]: 0 in what all questions see, 1, 2, … in those that see it and themselves, −1 in padding."""
    labels: Tensor
    """The answers' tokens, −100 elsewhere."""
    gaze: Tensor
    """Where the state before each token should look, int64 [batch, seq, 3]: row and column, of SIDE / PATCH each, and the
    picture's number; or −100."""
    tiles: list[Tiles]
    asked: list[str]
    """The case's task of each row."""


class Encoder:
    """Cases → batches, with the runtime's own image processor and the tokenizer."""

    def __init__(self) -> None:
        self._tokenizer = demo_tokenizer()
        self._images = Idefics2ImageProcessor(**IMAGE_OPTIONS)

    def batch(self, cases: list[Case]) -> Batch:
        rows, tiles, under = [], [], []
        for one in cases:
            rows.append(self.conversation(one))
            for turn in one.turns:
                for image, marks in zip(turn.images, turn.marks, strict=True):
                    (own,) = self._images.tiles([image])
                    tiles += own
                    boxes = tile_boxes(Size(image.height, image.width), True)
                    under += [under_patches(marks, box, tile.shape[1:]) for box, tile in zip(boxes, own, strict=True)]
        longest = -(-max(len(row[0]) for row in rows) // 32) * 32
        small = [i for i, tile in enumerate(tiles) if max(tile.shape) <= SIDE // 2]
        large = [i for i, tile in enumerate(tiles) if max(tile.shape) > SIDE // 2]
        ids, positions, parts, labels, gaze = (
            torch.tensor([row[i] + [filler] * (longest - len(row[i])) for row in rows])
            for i, filler in enumerate((0, 0, -1, -100, _NOWHERE))
        )
        padded = [_padded(tiles, under, places, side) for places, side in ((small, SIDE // 2), (large, SIDE)) if places]
        return Batch(ids, positions, parts, labels, gaze, padded, [one.task for one in cases])

    def conversation(self, one: Case) -> tuple[list[Any], ...]:
        """Ids, positions, parts, labels (the answers with their end tokens) and gaze."""
        bos, image = self._tokenizer.token_to_id("<s>"), self._tokenizer.token_to_id(IMAGE)
        assert bos is not None
        assert image is not None
        ids, labels, gaze = [bos], [-100], [_NOWHERE]
        rest = self.ids(f"{END_OF_UTTERANCE}\n")[1:]
        for turn in one.turns:
            pictures = len(turn.images)
            asked, answer = self.turn(turn, pictures)
            # In the last turn: its pictures and the token that closes them.
            common = len(asked) - asked[::-1].index(image) + 1 if pictures else 0
            shared = len(ids) + common
            ids += asked + answer + rest
            labels += [-100] * len(asked) + answer + [-100] * len(rest)
            gaze += self._gaze(turn, asked, answer) + [_NOWHERE] * len(rest)
        positions, parts = list(range(len(ids))), [0] * shared + [1] * (len(ids) - shared)
        for part, other in enumerate(one.others, 2):
            asked, answer = self.turn(other, pictures)
            own = asked[common:] + answer
            ids += own
            labels += [-100] * (len(own) - len(answer)) + answer
            gaze += self._gaze(other, asked, answer)[common:]
            positions += range(shared, shared + len(own))
            parts += [part] * len(own)
        return ids, positions, parts, labels, gaze

    def _gaze(self, turn: Turn, asked: list[int], answer: list[int]) -> list[tuple[int, int, int]]:
        """Where each token of a question and its answer looks."""
        words = [str(self._tokenizer.id_to_token(token)).lstrip("\u2581") for token in (*asked, *answer)]
        found, done = [_NOWHERE] * len(words), 0
        if turn.at is not None:  # as soon as the question is over
            over = len(asked) - words[: len(asked)][::-1].index("?")
            found[over:] = [_gaze(turn.at)] * (len(words) - over)
        for word, places in turn.sought.items():
            starts = [sum(map(len, words[:i])) for i in range(len(asked))]
            first = "".join(words[: len(asked)]).index(word)
            for i, start in enumerate(starts[:-1], 1):
                if words[i - 1] and first <= start < first + len(word):
                    found[i] = _gaze(places[start - first])
        for i in range(len(asked), len(words) if turn.read else 0):  # spaces and punctuation look at what follows them
            found[i] = _gaze(turn.read[done]) if done < len(turn.read) else _NOWHERE
            done += len(words[i]) if all(character in CHARACTERS for character in words[i]) else 0
        return found

    def turn(self, turn: Turn, pictures: int) -> tuple[list[int], list[int]]:
        """Ids of a question after its pictures, and of its answer."""
        question = f"User:{IMAGE * pictures}{'' if pictures else ' '}{turn.question}{END_OF_UTTERANCE}\nAssistant:"
        answer = self.ids(f"{question} {turn.answer}{END_OF_UTTERANCE}")[len(self.ids(question)) :]
        return self.ids(expand_images(question, LATENTS, split=True)), answer

    def ids(self, text: str) -> list[int]:
        """Ids of a text, without special tokens of its own."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def _gaze(place: Place) -> tuple[int, int, int]:
    picture, row, column = place
    parts = SIDE // PATCH
    return min(max(int(row * parts), 0), parts - 1), min(max(int(column * parts), 0), parts - 1), picture


def under_patches(marks: list[Mark], box: Box, size: tuple[int, ...]) -> NDArray[np.int64]:
    """Class of what lies under each patch's halves [rows, columns, 2] of a tile, which shows a box of the picture."""
    rows, columns = size[0] // PATCH, size[1] // PATCH
    ys = box.upper + (np.arange(rows) + 0.5) * PATCH * box.size.height / size[0]
    xs = box.left + (np.arange(2 * columns) + 0.5) * PATCH / 2 * box.size.width / size[1]
    found = np.zeros((rows, 2 * columns), np.int64)
    for mark in marks:
        left, top, right, bottom = mark.box
        (y, y_end), (x, x_end) = np.searchsorted(ys, [top, bottom]), np.searchsorted(xs, [left, right])
        found[y:y_end, x:x_end] = mark.label
    return found.reshape(rows, columns, 2)


def _padded(tiles: list[Tile], under: list[NDArray[np.int64]], places: list[int], side: int) -> Tiles:
    count, grid = -(-len(places) // 16) * 16, side // PATCH
    pixels = np.zeros((count, 3, side, side), np.float32)
    mask = np.zeros((count, grid, grid), bool)
    labels = np.full((count, grid, grid, 2), -100)
    for row in range(count):
        tile, label = tiles[places[min(row, len(places) - 1)]], under[places[min(row, len(places) - 1)]]
        pixels[row, :, : tile.shape[1], : tile.shape[2]] = tile
        mask[row, : label.shape[0], : label.shape[1]] = True
        if row < len(places):
            labels[row, : label.shape[0], : label.shape[1]] = label
    return Tiles(torch.from_numpy(pixels), torch.from_numpy(mask), torch.from_numpy(labels).flatten(1, 2), places)


class Batches(Dataset[Batch]):
    """Batch number i of a run: its cases follow from i alone. Cases with several pictures go together, half as many."""

    def __init__(self, steps: int, size: int, which: Set = "training") -> None:
        self._steps, self._size, self._which = steps, size, which
        self._encoder: Encoder | None = None

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Batch:
        self._encoder = self._encoder or Encoder()
        random = np.random.default_rng([7, step])
        several = random.random() < 2 * sum(SHARES[task] for task in SEVERAL)  # they come in batches half as large
        shares = {task: share for task, share in SHARES.items() if (task in SEVERAL) == several}
        ease = min(1.0, 0.1 + (step - EYES) / RAMP)
        if self._which == "held-out":
            ease, shares = 1.0, {task: share for task, share in shares.items() if task in TASKS}
        elif step < EYES:
            shares, several, ease = EYES_SHARES, False, 1.0
        total = sum(shares.values())
        size = self._size // 2 if several else self._size
        tasks = random.choice(list(shares), size, p=[share / total for share in shares.values()]).tolist()
        cases = [case(task, self._which, step * self._size + i, ease) for i, task in enumerate(tasks)]
        return self._encoder.batch([replace(one, others=[]) for one in cases] if self._which == "held-out" else cases)
