"""Many requests to one scheduler, at random moments, a fifth of them cancelled: every answer equals the same request alone.

PYTHONPATH=tests/support:tests/promises python tests/by_hand/scheduler_soak.py [FOLDER …] [--requests 5000]

Without a folder it is the demo model. Prints how many answers differed, and the memory after a fifth of the requests and at the end.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from typing import Any

import numpy as np
import psutil
from idefics2_onnx import Cancelled, Scheduler, load
from test_scheduler import essence, requests

KINDS = 200


def soak(folder: str | None, count: int) -> None:
    model = load(folder)
    made = requests(KINDS, 7)
    alone = [essence(model.generate(text, images or None, **options)) for text, images, options in made]
    random, process = np.random.default_rng(0), psutil.Process()
    open_: deque[tuple[int, Any]] = deque()
    differing = cancelled = 0
    early, start = 0, time.perf_counter()

    def take() -> tuple[int, int]:
        kind, handle = open_.popleft()
        try:
            return int(essence(handle.result(600)) != alone[kind]), 0
        except Cancelled:
            return 0, 1

    with Scheduler(model, rows=8) as scheduler:
        for number in range(count):
            kind = int(random.integers(KINDS))
            text, images, options = made[kind]
            open_.append((kind, scheduler.submit(text, images or None, **options)))
            if random.random() < 0.2:
                open_[random.integers(len(open_))][1].cancel()
            time.sleep(random.choice([0, 0, 0, 0.02]))
            while len(open_) > 40 or (open_ and number == count - 1):
                wrong, gone = take()
                differing, cancelled = differing + wrong, cancelled + gone
            if number == count // 5:
                early = process.memory_info().rss
    late = process.memory_info().rss
    print(
        f"{folder or 'demo'}: {count} requests in {time.perf_counter() - start:.0f} s, {cancelled} cancelled, {differing} differ; "
        f"{early / 1e6:.0f} MB after a fifth, {late / 1e6:.0f} MB at the end",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--requests", type=int, default=5000)
    given = parser.parse_args()
    for one in given.folders or [None]:
        soak(one, given.requests)
