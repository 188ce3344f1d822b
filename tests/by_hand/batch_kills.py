"""`batch` over 300 pictures, killed at ten random moments: the same rows in the end as without, each once.

    python tests/by_hand/batch_kills.py [--pictures 300] [--kills 10] [--seed 0] [--unordered]

Every tenth picture is damaged. Between the kills the last line is cut at a random byte, as a power cut may.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from idefics2_onnx.demo.tasks import case

TIMES = ("seconds_waiting", "seconds_images", "seconds_prompt", "seconds_answer")


def command(output: str, *more: str) -> list[str]:
    options = ["--prompt", "What is in the picture?", "--max-new-tokens", "8", "--no-split", *more]
    return [sys.executable, "-m", "idefics2_onnx", "batch", "photos", "-o", output, *options]


def rows(path: Path) -> list[dict]:
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMES} for row in found]


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unordered", action="store_true")
    given = parser.parse_args()
    random.seed(given.seed)
    more = ["--unordered"] if given.unordered else []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("photos").mkdir()
        for number in range(given.pictures):
            path = Path(f"photos/{number:05}.png")
            case("shapes", "held-out", number).turns[0].images[0].save(path)
            if number % 10 == 5:
                path.write_bytes(path.read_bytes()[:200])
        start = time.perf_counter()
        assert subprocess.run(command("whole.jsonl"), capture_output=True).returncode == 1
        seconds = time.perf_counter() - start
        whole, output = rows(Path("whole.jsonl")), Path("out.jsonl")
        moments = sorted(random.sample(range(1, given.pictures), given.kills))
        for moment in moments:
            process = subprocess.Popen(command("out.jsonl", *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while lines(output) < moment and process.poll() is None:
                time.sleep(0.001)
            time.sleep(random.random() * seconds / given.pictures)
            process.send_signal(signal.SIGKILL)
            process.wait()
            content = output.read_bytes()
            cut = random.randint(0, 100) if random.random() < 0.5 else 0
            output.write_bytes(content[: len(content) - cut])
            print(f"killed at {lines(output)} rows, {cut} bytes cut off")
        assert subprocess.run(command("out.jsonl", *more), capture_output=True).returncode == 1
        found = rows(output)
        if given.unordered:
            found.sort(key=lambda row: row["id"])
        assert found == whole
        errors = sum(row["error"] is not None for row in whole)
        print(f"{len(found)} rows, {errors} of them errors, as without {given.kills} kills; {seconds:.0f} s in one run")


if __name__ == "__main__":
    main()
