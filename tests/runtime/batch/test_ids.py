"""The set of ids that have a row."""

from __future__ import annotations

import random

from idefics2_onnx.runtime.batch.ids import Ids


def test_as_a_set_has_it():
    """Lines of two tables out of order, pictures, and names that look like either."""
    names = [f"{table}.jsonl:{line}" for table in "ab" for line in range(1, 200)]
    names += [f"{number}.png" for number in range(50)] + [
        "a.jsonl:007",
        "a.jsonl:0",
        ":1",
        "x:²",
        "\udcff.png",
        "a.jsonl",
        "c.jsonl:5",
    ]
    for seed in range(5):
        rng = random.Random(seed)
        ids, known = Ids(), set()
        for name in sorted(names, key=lambda name: (names.index(name) + rng.randint(0, 20), name)):
            if rng.random() < 0.9:
                ids.add(name)
                known.add(name)
        assert [name in ids for name in names] == [name in known for name in names]


def test_lines_that_come_nearly_in_order_take_no_memory():
    ids = Ids()
    for start in range(1, 10_001, 10):
        for line in reversed(range(start, start + 10)):
            ids.add(f"table.jsonl:{line}")
    assert ids._lines == {"table.jsonl": 10_000}
    assert not ids._others
