"""`model.map`: any number of items, each answered as it would be alone, or with its own error."""

from __future__ import annotations

import itertools
import threading
import time

import pytest
from idefics2_onnx import Idefics2, ImageError, PromptError
from idefics2_onnx.demo.tasks import case
from PIL import Image

QUESTION = "What is in the picture?"


@pytest.fixture(scope="module")
def demo():
    return Idefics2.from_pretrained()


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [case("shapes", "held-out", number).turns[0].images[0] for number in range(8)]


@pytest.fixture(scope="module")
def alone(demo, pictures) -> list[str]:
    return [demo.generate(QUESTION, picture).text for picture in pictures]


@pytest.fixture
def schedulers():
    """Those that run since the test began."""
    before = set(threading.enumerate())
    return lambda: [thread for thread in threading.enumerate() if thread.name == "scheduler" and thread not in before]


def test_in_order_and_as_they_come(demo, pictures, alone):
    found = list(demo.map(pictures, QUESTION, rows=3))
    assert [(one.index, one.item, one.answer.text) for one in found] == list(zip(range(8), pictures, alone, strict=True))
    loose = list(demo.map(pictures, QUESTION, rows=3, ordered=False))
    assert sorted((one.index, one.answer.text) for one in loose) == list(enumerate(alone))
    pairs = [(QUESTION, pictures[0]), *[("How many stars are there?", picture) for picture in pictures[1:4]]]
    assert next(found := demo.map(pairs, ordered=False)).index != 0  # its answer is the longest
    assert sorted(one.index for one in found)[0] == 0


def test_pairs_have_their_own_prompts(demo, pictures):
    pairs = [(f"Is there a {colour} star?", picture) for colour, picture in zip(("red", "blue"), pictures, strict=False)]
    found = demo.map(pairs, max_new_tokens=12)
    assert [one.answer.token_ids for one in found] == [demo.generate(*pair, max_new_tokens=12).token_ids for pair in pairs]


def test_an_error_is_one_items_own(demo, pictures, alone, tmp_path):
    items = [pictures[0], b"no picture", tmp_path / "none.png", [pictures[1]], 7]
    found = list(demo.map(items, QUESTION))
    assert [one.answer and one.answer.text for one in found] == [alone[0], None, None, alone[1], None]
    assert [type(one.error) for one in found] == [type(None), ImageError, ImageError, type(None), ImageError]
    (unpaired,) = demo.map(["photo.jpg"])
    assert "An item is a str, and without a prompt for all of them each is a pair." in str(unpaired.error)


def test_wrong_options_are_refused_at_once(demo):
    for options in ({"max_new_tokens": 0}, {"num_beams": 2}, {"nonsense": 1}):
        with pytest.raises(PromptError):
            demo.map([], "Hi", **options)


def test_an_endless_source_is_taken_a_little_ahead(demo, pictures, schedulers):
    most = last = 0

    def endless():
        nonlocal last
        for last in itertools.count():
            yield pictures[last % len(pictures)]

    found = demo.map(endless(), QUESTION, rows=2, max_new_tokens=4)
    for one in itertools.islice(found, 40):
        most = max(most, last - one.index)
    assert most <= 8  # four times as many as rows
    found.close()
    assert not schedulers()


def test_closed_early_it_cancels_what_runs(demo, pictures, schedulers):
    pairs = itertools.chain([("Hi", None)], itertools.repeat((QUESTION, pictures[0])))
    found = demo.map(pairs, rows=4, max_new_tokens=300, eos_token_id=[])
    assert len(next(found).answer.token_ids) == 300
    assert schedulers()
    start = time.perf_counter()
    found.close()
    assert time.perf_counter() - start < 10
    assert not schedulers()


def test_a_source_that_fails_does_so_behind_its_items(demo, pictures, alone):
    def source():
        yield from pictures[:3]
        raise ZeroDivisionError

    found = demo.map(source(), QUESTION)
    assert [next(found).answer.text for _ in range(3)] == alone[:3]
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_a_slow_source_holds_no_outcome_up(demo, pictures):
    """The first outcome is handed over long before as many items came as would be taken ahead."""
    last = 0

    def source():
        nonlocal last
        for _ in range(30):
            time.sleep(0.2)
            last += 1
            yield pictures[0]

    first = next(found := demo.map(source(), QUESTION, max_new_tokens=1))
    assert first.index == 0
    assert last < 15
    found.close()
