"""Answers of the demo model under transformers and under this runtime, over held-out cases.

PYTHONPATH=tests/support python tests/by_hand/demo_agreement.py CHECKPOINT FOLDER [CASES]     # prints the share that is equal; the suite runs a slice
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from idefics2_onnx.demo.evaluate import LONGEST, answers
from idefics2_onnx.demo.tasks import TASKS, case
from idefics2_onnx.runtime.model import Idefics2
from parity import Reference


def reference_answers(reference: Reference, task: str, numbers: Sequence[int], batch_size: int = 16) -> list[str]:
    """What transformers answers."""
    found: list[str] = []
    for start in range(0, len(numbers), batch_size):
        cases = [case(task, "held-out", number) for number in numbers[start : start + batch_size]]
        texts = [reference.processor.apply_chat_template(one.messages, add_generation_prompt=True) for one in cases]
        inputs = reference.inputs(texts, [[image for turn in one.turns for image in turn.images] for one in cases], True)
        ids = reference.generate(inputs, max_new_tokens=LONGEST)[:, inputs["input_ids"].shape[1] :]
        found += [text.strip() for text in reference.processor.batch_decode(ids, skip_special_tokens=True)]
    return found


def differing(reference: Reference, model: Idefics2, task: str, numbers: Sequence[int]) -> list[tuple[str, str]]:
    """Answers that are not the same: the reference's and ours."""
    ours = [text for text, _ in answers(model, task, numbers)]
    return [pair for pair in zip(reference_answers(reference, task, numbers), ours, strict=True) if pair[0] != pair[1].strip()]


if __name__ == "__main__":
    checkpoint, folder, *rest = sys.argv[1:]
    count = int(rest[0]) if rest else 500
    theirs, ours = Reference.load(Path(checkpoint)), Idefics2.from_pretrained(folder)
    total = 0
    for task in TASKS:
        unequal = differing(theirs, ours, task, range(count))
        total += len(unequal)
        print(f"{task:12} {count - len(unequal)} of {count} equal", *unequal[:5], flush=True)
    print(f"{100 - 100 * total / (count * len(TASKS)):.3f} % of {count * len(TASKS)} equal")
