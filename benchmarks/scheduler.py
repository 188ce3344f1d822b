"""What running together is worth: tokens a second by the number of answers, and how long a long prompt holds them up.

    python benchmarks/scheduler.py FOLDER [--rounds 7] [--rows 1,4,8,16] [--device cuda] [--cuda-graph] [--json FILE]

Each round measures all numbers of answers in turn, and the ratios are of one round. Tokens are counted from when all answers have
their first until the first of them ends. The gap is the longest between two tokens of one of four running answers, while the
scheduler reads a prompt of 1,500 tokens, or a question about a photo of 980×735.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from idefics2_onnx import GpuOptions, Scheduler, load

NEW, LONG = 48, 1500


def clock(times: list[float]) -> Callable[[Any, Any], bool]:
    """A stopping criterion that stops nothing and notes when it was asked, after every token."""

    def note(*_: Any) -> bool:
        times.append(time.perf_counter())
        return False

    return note


def speed(scheduler: Scheduler, rows: int) -> float:
    """Tokens a second of so many answers."""
    times: list[list[float]] = [[] for _ in range(rows)]
    for handle in [
        scheduler.submit("Tell me.", raw=True, max_new_tokens=NEW, eos_token_id=[], stopping_criteria=[clock(own)])
        for own in times
    ]:
        handle.result()
    begin, end = max(own[0] for own in times), min(own[-1] for own in times)
    return sum(begin < moment <= end for own in times for moment in own) / (end - begin)


def gap(scheduler: Scheduler, prompt: str, images: list[Any] | None = None) -> dict[str, float]:
    """Seconds between two tokens: usually, and at most while a request is prepared and read."""
    times: list[list[float]] = [[] for _ in range(4)]
    options = {"raw": True, "max_new_tokens": 2000, "eos_token_id": []}
    running = [scheduler.submit("Tell me.", **options, stopping_criteria=[clock(own)]) for own in times]
    while min(map(len, times)) < 10:
        time.sleep(0.01)
    begin = time.perf_counter()
    scheduler.submit(prompt, images, raw=True, max_new_tokens=1, do_image_splitting=False).result()
    end = time.perf_counter()
    for handle in running:
        handle.cancel()
    before = np.concatenate([np.diff([moment for moment in own if moment < begin]) for own in times])
    during = np.concatenate([np.diff([moment for moment in own if begin <= moment <= end]) for own in times])
    return {"usual": float(np.median(before)), "longest": float(during.max()), "first token": end - begin}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", default="1,4,8,16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cuda-graph", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    gpu = GpuOptions(cuda_graph=options.cuda_graph)
    model = load(options.folder, options.device, gpu_options=gpu, image_cache=0, spinning=False)
    speeds: dict[int, list[float]] = {int(rows): [] for rows in options.rows.split(",")}
    picture = np.random.default_rng(1).integers(0, 256, (735, 980, 3), dtype=np.uint8)
    with Scheduler(model, rows=max(*speeds, 5)) as scheduler:
        for rows in speeds:
            speed(scheduler, rows)  # the cache takes its shape; where steps are recorded, they are
        for _ in range(options.rounds):
            for rows, own in speeds.items():
                own.append(speed(scheduler, rows))
        times = max(1, options.rounds // 2)
        gaps = {
            "a long prompt": [gap(scheduler, "x" * LONG) for _ in range(times)],
            "an image": [gap(scheduler, "<image>What?", [picture]) for _ in range(times)],
        }
    found = {"layers": model.engine.sizes.num_layers, "tokens per second": speeds, "gaps": gaps}
    for rows, own in speeds.items():
        ratio = statistics.median(own / one for own, one in zip(own, speeds[min(speeds)], strict=True))
        print(f"{rows:3} answers: {statistics.median(own):8.1f} tokens a second, {ratio:.2f} times {min(speeds)}'s")
    for what, each in gaps.items():
        figures = ", ".join(f"{name} {1000 * statistics.median(own[name] for own in each):.0f} ms" for name in each[0])
        print(f"{what}: {figures}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
