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


if __name__ == "__main__":
    text = Path(__file__).with_name("report.md").read_text().replace("{EXPORTS}", exports())
    (Path(__file__).parents[1] / "docs" / "benchmarks.md").write_text(text)
