"""How good a small IDEFICS is (`train_idefics.py`), and whether transformers and a folder of it answer alike.

    PYTHONPATH=tests/support python benchmarks/evaluate_idefics.py CHECKPOINT FOLDER [--cases 500] [--json FILE]

FOLDER is `idefics2-onnx export CHECKPOINT --fp32`. Every prompt is interleaved, as the reference's processor takes it: a third
have one picture, the others two or three, each with its question and, but for the last, its answer. Training saw none of the
pictures.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from idefics2_onnx import load
from idefics2_onnx.demo.evaluate import LONGEST
from idefics2_onnx.demo.tasks import case
from idefics2_onnx.runtime.image_tokens import END_OF_UTTERANCE

TASKS = ("shapes", "counting", "reading")


def prompt(task: str, number: int) -> tuple[list[Any], str]:
    """An interleaved prompt, whose last question is of a task, and the right answer."""
    random = np.random.default_rng([5, TASKS.index(task), number])
    tasks = [*random.choice(TASKS, number % 3).tolist(), task]
    turns = [case(one, "held-out", 3 * number + place).turns[-1] for place, one in enumerate(tasks)]
    items: list[Any] = []
    text = question = "User:"
    for turn in turns:
        items += [text, *turn.images]
        question = f"{turn.question}{END_OF_UTTERANCE}\nAssistant:"
        text = f"{question} {turn.answer}{END_OF_UTTERANCE}\nUser:"
    return [*items, question], turns[-1].answer


def said(processor: Any, generate: Callable[..., Any], prompts: list[list[Any]]) -> list[str]:
    """What this runtime or transformers answers, by the code of the model's page in transformers' documentation."""
    inputs = processor(text=prompts, padding=True)
    ids = generate(inputs)
    texts: list[str] = processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def answers(model: Any, task: str, cases: range) -> list[str]:
    """This runtime's answers to questions of a task."""
    found: list[str] = []
    for begin in range(cases.start, cases.stop, 16):
        asked = [prompt(task, number)[0] for number in range(begin, min(begin + 16, cases.stop))]
        found += said(model.processor, lambda inputs: model.generate(**inputs, max_new_tokens=LONGEST), asked)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder")
    parser.add_argument("--cases", type=int, default=500, help="Of each task.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    from idefics_parity import IdeficsReference

    theirs, ours = IdeficsReference.load(options.checkpoint), load(options.folder)
    generate = partial(theirs.generate, max_new_tokens=LONGEST)
    found, start = {}, time.perf_counter()
    for task in TASKS:
        right = alike = 0
        for begin in range(0, options.cases, 16):
            asked = [prompt(task, number) for number in range(begin, min(begin + 16, options.cases))]
            own = answers(ours, task, range(begin, begin + len(asked)))
            other = said(theirs.processor, generate, [items for items, _ in asked])
            right += sum(text.strip() == answer for text, (_, answer) in zip(own, asked, strict=True))
            alike += sum(a == b for a, b in zip(own, other, strict=True))
        found[task] = {"right": right, "alike": alike, "cases": options.cases}
        print(f"{task:9} {right} of {options.cases} right, {alike} as transformers answers", flush=True)
    total = {what: sum(one[what] for one in found.values()) for what in ("right", "alike", "cases")}
    print(f"{100 * total['right'] / total['cases']:.1f} % right, {100 * total['alike'] / total['cases']:.2f} % alike")
    if options.json:
        options.json.write_text(json.dumps(found | {"seconds": round(time.perf_counter() - start)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
