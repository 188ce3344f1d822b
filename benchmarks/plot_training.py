"""Draw the demo model's training log: python benchmarks/plot_training.py docs/demo-training.jsonl docs/demo-training.svg"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

if __name__ == "__main__":
    log, picture = sys.argv[1:]
    lines = [json.loads(line) for line in Path(log).read_text().splitlines()]
    mpl.rcParams["svg.hashsalt"] = "idefics2-onnx"
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 7), sharex=True)
    steps = [line["step"] for line in lines]
    above.plot(steps, [line["loss"] or None for line in lines], label="answers")
    for name, label in (
        ("side", "what lies under each patch"),
        ("recall", "the same, from the latents"),
        ("gaze", "where to look"),
    ):
        above.plot(steps, [line.get(name) or None for line in lines], label=label)
    above.set(ylabel="loss", yscale="log")
    for task in lines[-1]["exact"]:
        found = [(line["step"], line["exact"][task]) for line in lines if task in line["exact"]]
        below.plot(*zip(*found, strict=True), label=task, linewidth=1)
    below.set(xlabel="step", ylabel="exact answers, some 50 held-out cases each", ylim=(0, 1))
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(picture, bbox_inches="tight", metadata={"Date": None})
