"""The installed package answers, by its command and in Python; with nothing else installed, on any system."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from idefics2_onnx import Idefics2

EXAMPLES = Path(__file__).parents[2] / "examples"


def main() -> None:
    for example in json.loads((EXAMPLES / "questions.json").read_text("utf-8")):
        images = [str(EXAMPLES / name) for name in example["images"]]
        command = [sys.executable, "-m", "idefics2_onnx", "run", *images, example["question"]]
        answer = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout.strip()
        assert answer == example["answer"], f"{command}: {answer!r}, not {example['answer']!r}"
        assert Idefics2.from_pretrained().generate(example["question"], images=images).text == answer
        print(f"{example['question']}  {answer}")


if __name__ == "__main__":
    main()
