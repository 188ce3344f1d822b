"""`batch` against a loop over `generate`: whole processes over the same pictures, in pairs, the demo model.

    python benchmarks/batch.py [--pictures 300] [--pairs 3] [--task shapes] [--model FOLDER]

Prints a JSON object: seconds of each process, pictures per second by the medians, and whether all answers are equal.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from idefics2_onnx.demo.tasks import case

LOOP = """
import json, sys
from pathlib import Path
from idefics2_onnx import load
model = load(sys.argv[1] or None)
with open("loop.jsonl", "w") as file:
    for path in sorted(Path("pictures").iterdir()):
        answer = model.generate(sys.argv[2], path, max_new_tokens=96)
        file.write(json.dumps({"id": str(path), "answer": answer.text}) + "\\n")
"""


def timed(command: list[str], folder: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - start


def answers(path: Path) -> list[tuple[str, str]]:
    return [(row["id"], row["answer"]) for row in map(json.loads, path.read_text("utf-8").splitlines())]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--task", default="shapes")
    parser.add_argument("--model", default="")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder, "pictures")
        pictures.mkdir()
        for number in range(given.pictures):
            case(given.task, "held-out", number).turns[0].images[0].save(pictures / f"{number:05}.png")
        question = {"receipt": "Give the receipt as JSON."}.get(given.task, case(given.task, "held-out", 0).turns[0].question)
        program = [sys.executable, "-m", "idefics2_onnx", "batch", "pictures", "-o", "batch.jsonl", "--restart"]
        program += ["--prompt", question, "--max-new-tokens", "96", *(["-m", given.model] if given.model else [])]
        seconds: dict[str, list[float]] = {"batch": [], "loop": []}
        for _ in range(given.pairs):
            seconds["batch"].append(timed(program, folder))
            seconds["loop"].append(timed([sys.executable, "-c", LOOP, given.model, question], folder))
        equal = answers(Path(folder, "batch.jsonl")) == answers(Path(folder, "loop.jsonl"))
    middle = {name: statistics.median(own) for name, own in seconds.items()}
    found = {
        "pictures": given.pictures,
        "question": question,
        "seconds": {name: [round(one, 2) for one in own] for name, own in seconds.items()},
        "pictures_per_second": {name: round(given.pictures / own, 2) for name, own in middle.items()},
        "ratio": round(middle["loop"] / middle["batch"], 2),
        "equal": equal,
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
