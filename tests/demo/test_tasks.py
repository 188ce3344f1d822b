"""The demo's cases: the same every time, none of training's among the held-out, and every answer survives the tokenizer."""

from __future__ import annotations

import numpy as np
import pytest
from idefics2_onnx.demo.tasks import TASKS, TRAINING_ONLY, case
from idefics2_onnx.runtime.folder import DEMO
from tokenizers import Tokenizer

TOKENIZER = Tokenizer.from_file(str(DEMO / "tokenizer.json"))


@pytest.mark.parametrize("task", [*TASKS, *TRAINING_ONLY])
def test_cases_follow_from_their_numbers(task):
    seen = {}
    for which in ("training", "held-out"):
        for number in range(10):
            one, again = case(task, which, number), case(task, which, number)
            assert one.messages[-1]["content"] == again.messages[-1]["content"]
            assert one.answer == again.answer
            pixels = b"".join(np.asarray(image).tobytes() for turn in one.turns for image in turn.images)
            assert seen.setdefault(pixels, (which, number)) == (which, number)
            for turn in [*one.turns, *one.others]:
                assert all(mark.label > 0 for marks in turn.marks for mark in marks)
                ids = TOKENIZER.encode(f"Assistant: {turn.answer}", add_special_tokens=False).ids
                assert TOKENIZER.decode(ids) == f"Assistant: {turn.answer}"
    assert len(seen) == 20
