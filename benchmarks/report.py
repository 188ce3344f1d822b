"""docs/benchmarks.md, from the raw results under benchmarks/results: python benchmarks/report.py"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")


def read(name: str) -> Any:
    text = (RESULTS / name).read_text()
    return [json.loads(line) for line in text.splitlines()] if name.endswith(".jsonl") else json.loads(text)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] + ["---:"] * (len(lines[0]) - 1))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def exports() -> str:
    rows = (
        [
            run["precision"], f"{run['folder_bytes'] / 1e9:.2f} GB", f"{run['seconds']:.0f} s", f"{run['copying']:.0f} s",
            f"{run['seconds'] / run['copying']:.2f}", f"{run['peak_rss_bytes'] / 1e9:.2f} GB",
        ]
        for run in read("export.jsonl")
    )  # fmt: skip
    return table(("export", "folder", "time", "plain copies", "ratio", "peak memory"), rows)


def quality() -> str:
    found = read("quality.json")
    first = next(iter(found.values()))["tasks"]
    rows = []
    for name, result in found.items():
        cases, right, differ = (sum(task[what] or 0 for task in result["tasks"]) for what in ("cases", "right", "differ"))
        each = (f"{100 * task['right'] / task['cases']:.1f}" for task in result["tasks"])
        rows.append([name, f"{result['bytes'] / 1e6:.1f} MB", *each, f"**{100 * right / cases:.2f}**", str(differ)])
    return table(("folder", "size", *(task["task"] for task in first), "all", "unlike fp32's"), rows)


def sensitivity() -> str:
    rows = []
    for name, part in read("sensitivity.json").items():
        millionths, percent = 1e6 * part["divergence"], part["share"] / 10
        rows.append([name, f"{millionths:.0f}", f"{percent:.1f} %", f"{millionths / percent:.0f}"])
    return table(("part in 4 bits", "KL, millionths", "of the real model", "KL per 1 %"), rows)


if __name__ == "__main__":
    text = Path(__file__).with_name("report.md").read_text()
    for name, section in (("EXPORTS", exports()), ("QUALITY", quality()), ("SENSITIVITY", sensitivity())):
        text = text.replace(f"{{{name}}}", section)
    (Path(__file__).parents[1] / "docs" / "benchmarks.md").write_text(text)
