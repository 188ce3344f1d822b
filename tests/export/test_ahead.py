"""Items that are made ahead of their use."""

from __future__ import annotations

import threading

import pytest
from idefics2_onnx.export.ahead import ahead


def test_the_next_item_is_made_while_the_last_is_in_use():
    made = [threading.Event() for _ in range(4)]

    def items():
        for number in range(3):
            made[number].set()
            yield number
        made[3].set()

    for found, number in enumerate(ahead(items())):
        assert found == number
        assert made[number + 1].wait(60)


def test_no_more_than_one_is_made_ahead():
    made = []
    found = ahead(number for number in range(9) if not made.append(number))
    assert next(found) == 0
    found.close()
    assert made == [0, 1]


def test_an_error_comes_where_its_item_would():
    found = ahead(1 // number for number in (1, 0))
    assert next(found) == 1
    with pytest.raises(ZeroDivisionError):
        next(found)
