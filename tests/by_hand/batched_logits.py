"""What a batch changes in folders of narrow types: logits of the same tokens, in a batch and alone, beside what the type itself changes.

    PYTHONPATH=tests/support python tests/by_hand/batched_logits.py FP32_FOLDER FOLDER …

Prompts: demo questions with their right answers, 24 of ragged lengths a batch. Steps: the words of eight of them, token by token.
Differences are relative to the largest logit of fp32 alone.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from idefics2_onnx import Idefics2
from idefics2_onnx.demo.tasks import TASKS, case
from idefics2_onnx.runtime.engine.decode_step import DecodeStep

BATCH, BATCHES = 24, 2


def prompts(batch: int) -> list[tuple[str, list[Any]]]:
    """Texts with their answers, and the images of each."""
    made = []
    for place in range(BATCH):
        task = list(TASKS)[place % len(TASKS)]
        turns = case(task, "held-out", batch * BATCH + place).turns
        text = "".join(
            f"User:{'<image>' * len(turn.images)}{turn.question}<end_of_utterance>\nAssistant: {turn.answer}<end_of_utterance>\n"
            for turn in turns
        )
        made.append((text, [image for turn in turns for image in turn.images]))
    return made


def logits(model: Idefics2, asked: list[tuple[str, list[Any]]]) -> list[np.ndarray[Any, Any]]:
    """Of each prompt's tokens, from one call."""
    with_images = any(images for _, images in asked)
    images = {"images": [own for _, own in asked]} if with_images else {}
    inputs = model.processor(text=[text for text, _ in asked], padding=True, **images)
    found = model.logits(inputs)
    return [row[mask == 1] for row, mask in zip(found, inputs["attention_mask"], strict=True)]


def stepped(model: Idefics2, rows: list[list[int]]) -> np.ndarray[Any, Any]:
    """Logits [tokens, rows, vocab] of steps over given tokens."""
    tokens = min(map(len, rows))
    cache = model.engine.new_cache(len(rows), tokens)
    step = DecodeStep(model.engine, cache, len(rows))
    return np.stack([step([row[place] for row in rows]).copy() for place in range(tokens)])


def said(name: str, alone: list[Any], together: list[Any], exact: list[Any]) -> str:
    largest = max(float(np.abs(own).max()) for own in exact)
    batching = max(float(np.abs(a - b).max()) for a, b in zip(alone, together, strict=True)) / largest
    narrowing = max(float(np.abs(a - b).max()) for a, b in zip(alone, exact, strict=True)) / largest
    chosen = sum(int((a.argmax(-1) != b.argmax(-1)).sum()) for a, b in zip(alone, together, strict=True))
    return f"{name}: batching {batching:.1e}, the type {narrowing:.1e}, {chosen} of {sum(map(len, exact)):,} next tokens differ"


def main() -> None:
    truth = Idefics2.from_pretrained(sys.argv[1], "cpu")
    asked = [prompts(batch) for batch in range(BATCHES)]
    exact = [logits(truth, [one])[0] for batch in asked for one in batch]
    words = [truth.processor.tokenizer.encode(text.replace("<image>", "")).ids for text, _ in asked[0][:8]]
    exact_steps = [stepped(truth, [row])[:, 0] for row in (own[: min(map(len, words))] for own in words)]
    for folder in sys.argv[1:]:
        model = Idefics2.from_pretrained(folder, "cpu")
        alone = [logits(model, [one])[0] for batch in asked for one in batch]
        together = [row for batch in asked for row in logits(model, batch)]
        steps = [stepped(model, [row[: len(exact_steps[0])]])[:, 0] for row in words]
        steps_together = list(stepped(model, words).swapaxes(0, 1))
        print(
            f"{folder}: {said('prompts', alone, together, exact)}; {said('steps', steps, steps_together, exact_steps)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
