"""`batch --ray local` over 400 pictures beside `batch`: the same rows; and again with actors and drivers killed.

    python tests/by_hand/ray_kills.py [--pictures 400] [--kills 5] [--drivers 2] [--seed 0]

Three pictures are damaged. Actors are killed at random moments of a run that ends by itself, drivers at random numbers of rows, with
what they started, and the same command goes on. Every run has two actors.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from idefics2_onnx.demo.tasks import case

TIMES = ("seconds_waiting", "seconds_images", "seconds_prompt", "seconds_answer")
DAMAGED = (7, 130, 311)
ON_RAY = ("--ray", "local", "--ray-actors", "2")


def command(output: str, *more: str) -> list[str]:
    options = ["--prompt", "What is in the picture?", *more]
    return [sys.executable, "-m", "idefics2_onnx", "batch", "photos", "-o", output, *options]


def rows(path: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMES} for row in found]


def lines(path: str) -> int:
    return Path(path).read_bytes().count(b"\n") if Path(path).exists() else 0


def begin(output: str, *more: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command(output, *ON_RAY, *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def below(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """What a process has started, and what that has."""
    return psutil.Process(process.pid).children(recursive=True)


def actors(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [each for each in below(process) if each.name().startswith("ray::MapWorker(MapBatches(Answ")]


def wait_for(process: subprocess.Popen[bytes], output: str, count: int) -> None:
    while lines(output) < count:
        assert process.poll() is None, "it ended before"
        time.sleep(0.002)


def end_with_children(process: subprocess.Popen[bytes]) -> None:
    """As a machine that goes down."""
    started = below(process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for each in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--drivers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    random.seed(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("photos").mkdir()
        for number in range(given.pictures):
            path = Path(f"photos/{number:05}.png")
            case("shapes", "held-out", number).turns[0].images[0].save(path)
            if number in DAMAGED:
                path.write_bytes(path.read_bytes()[:200])
        start = time.perf_counter()
        assert subprocess.run(command("alone.jsonl"), capture_output=True).returncode == 1
        print(f"batch: {given.pictures} rows in {time.perf_counter() - start:.1f} s")
        alone = rows("alone.jsonl")
        assert sum(row["error"] is not None for row in alone) == sum(number < given.pictures for number in DAMAGED)

        start = time.perf_counter()
        assert begin("ray.jsonl").wait() == 1
        assert rows("ray.jsonl") == alone
        print(f"batch --ray local --ray-actors 2: the same rows, field by field, in {time.perf_counter() - start:.1f} s")

        process = begin("actors.jsonl")
        for moment in sorted(random.sample(range(given.pictures * 3 // 4), given.kills)):
            wait_for(process, "actors.jsonl", moment)
            time.sleep(random.random() / 10)
            while not (found := actors(process)):
                time.sleep(0.05)
            random.choice(found).send_signal(signal.SIGKILL)
            print(f"an actor was killed at {lines('actors.jsonl')} rows")
        assert process.wait() == 1
        assert rows("actors.jsonl") == alone
        print(f"{len(alone)} rows, each once, as without {given.kills} dead actors")

        for moment in sorted(random.sample(range(1, given.pictures), given.drivers)):
            process = begin("drivers.jsonl")
            wait_for(process, "drivers.jsonl", moment)
            end_with_children(process)
            print(f"the driver was killed at {lines('drivers.jsonl')} rows")
        assert begin("drivers.jsonl").wait() == 1
        assert rows("drivers.jsonl") == alone
        print(f"{len(alone)} rows, each once, as without {given.drivers} dead drivers")


if __name__ == "__main__":
    main()
