"""docs/benchmarks.md and its plots, from the raw results under benchmarks/results: python benchmarks/report.py"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")
PEER = "transformers bf16"
MACHINES = ("amx", "vnni")
"""What the two machines' processors multiply small integers with."""
GOALS = {"image": 1.0, "prompt": 1.2, "step": 2.5, "answer": 2.3}
"""Times as fast as the peer."""
PEOPLE = {"text": "text, 64 tokens", "photo_answer": "photo, to the 64th token"}
"""Columns for what people do, by the task's name in `cpu.py`."""
SHOWN = 0.5
"""Seconds from which on a part of an answer is drawn."""
TASKS = {
    "first": "first token of an answer about it, s",
    "image": "image of {width}×{height}, s",
    "prompt": "prompt of {prompt} tokens, s",
    "step": "step, ms",
    "answer": "photo, 100 tokens, {new} new ones, s",
}


def read(name: str) -> Any:
    text = (RESULTS / name).read_text()
    return [json.loads(line) for line in text.splitlines()] if name.endswith(".jsonl") else json.loads(text)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] + ["---:"] * (len(lines[0]) - 1))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ratio(theirs: list[float], ours: list[float]) -> float:
    """How many times as fast, by the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def exports(name: str) -> str:
    """The peak is that of the largest process."""
    rows = (
        [
            run["precision"] + (", as typed" if run.get("verify") == "auto" else ""),
            f"{run['folder_bytes'] / 1e9:.2f} GB",
            f"{run['seconds']:.0f} s",
            f"{run['copying']:.0f} s",
            f"{run['seconds'] / run['copying']:.2f}",
            f"{max(run['peak_rss_bytes'], run.get('peak_rss_bytes_of_its_processes', 0)) / 1e9:.2f} GB",
        ]
        for run in read(f"export-{name}.jsonl")
    )
    return table(("export", "folder", "time", "plain copies", "ratio", "peak memory"), rows)


def speed(name: str) -> str:
    found = read(f"cpu-full-{name}.json")
    peer, rows = found["results"][PEER], []
    for contestant, result in found["results"].items():
        row = [contestant, f"{statistics.median(result['memory']) / 1e9:.1f} GB", f"{statistics.median(result['opening']):.1f} s"]
        for task, seconds in result["seconds"].items():
            compared = "" if contestant == PEER else f" ({ratio(peer['seconds'][task], seconds):.2f}×)"
            middle = statistics.median(seconds)
            row.append((f"{1000 * middle:.0f}" if task == "step" else f"{middle:.2f}") + compared)
        rows.append(row)
    return table(("", "peak memory", "opens in", *(TASKS[task].format(**found) for task in peer["seconds"])), rows)


def goals(machine: str) -> str:
    """Which of the ratios that were aimed at each folder reaches."""
    found = read(f"cpu-full-{machine}.json")["results"]
    rows = []
    for name, result in found.items():
        if name != PEER:
            met = (ratio(found[PEER]["seconds"][task], result["seconds"][task]) >= goal for task, goal in GOALS.items())
            rows.append([name, *("yes" if one else "no" for one in met)])
    return table(("at least", *(f"{task} {goal}×" for task, goal in GOALS.items())), rows)


def memory(machine: str) -> str:
    rows = []
    for name, found in read(f"memory-{machine}.json").items():
        sizes = (f"{found[what] / 1e9:.2f} GB" for what in ("folder", "opened", "answered"))
        openings = (f"{found[what]:.1f} s" if what in found else "" for what in ("opening", "touching"))
        rows.append([name, *openings, *sizes, f"{found['answered'] / found['folder']:.2f}"])
    return table(("folder", "opens in", "new memory alone", "size", "opened", "answered", "ratio"), rows)


def quality() -> str:
    found = read("quality.json")
    first = next(iter(found.values()))["tasks"]
    rows = []
    for name, result in found.items():
        cases, right, differ = (sum(task[what] or 0 for task in result["tasks"]) for what in ("cases", "right", "differ"))
        each = (f"{100 * task['right'] / task['cases']:.1f}" for task in result["tasks"])
        rows.append([name, f"{result['bytes'] / 1e6:.1f} MB", *each, f"**{100 * right / cases:.2f}**", str(differ)])
    return table(("folder", "size", *(task["task"] for task in first), "all", "unlike fp32's"), rows)


def layers() -> str:
    found = read("quantisation.json")
    rows = [
        [f"{graph}, {what}", *(f"{result['errors'][graph][what]:.4f}" for result in found.values())]
        for graph, errors in found["fp16"]["errors"].items()
        for what in errors
    ]
    rows.append(["**same next token**", *(f"{100 * result['same'] / result['positions']:.1f} %" for result in found.values())])
    rows.append(["**KL**", *(f"{result['divergence']:.2g}" for result in found.values())])
    rows.append(["**size**", *(f"{result['bytes'] / 1e9:.2f} GB" for result in found.values())])
    return table(("relative error", *found), rows)


def sensitivity() -> str:
    rows = []
    for name, part in read("sensitivity.json").items():
        millionths, percent = 1e6 * part["divergence"], part["share"] / 10
        rows.append([name, f"{millionths:.0f}", f"{percent:.1f} %", f"{millionths / percent:.0f}"])
    return table(("part in 4 bits", "KL, millionths", "of the real model", "KL per 1 %"), rows)


def session_options(name: str) -> str:
    rows = []
    for way, runs in read(f"session-options-{name}.json").items():
        opening, memory, prompt, step = (
            statistics.median(run[what] for run in runs) for what in ("opening", "memory", "prompt", "step")
        )
        rows.append([way, f"{opening:.1f} s", f"{memory / 1e9:.2f} GB", f"{prompt:.2f} s", f"{1000 * step:.0f} ms"])
    return table(("", "opens in", "peak memory", "prompt of 384", "step"), rows)


def limits(name: str) -> str:
    """Where an answer's time goes, each part beside what the processor could do."""
    found = read(f"limits-{name}.json")
    rows = []
    for part, own in found["parts"].items():
        least = (f"{own['limit']:.2f} s", f"{own['seconds'] / own['limit']:.2f}") if "limit" in own else ("", "")
        rows.append([part, f"{own['seconds']:.2f} s", f"{100 * own['seconds'] / found['seconds']:.1f} %", *least])
    rows.append(["**all**", f"{found['seconds']:.2f} s", "", "", ""])
    return table(("", "time", "share", "limit", "times the limit"), rows)


def people(name: str) -> str:
    """A phone's photo with the model's own options, and a turn of text."""
    found = read(f"cpu-{name}.json")["results"]
    peer, rows = found[PEER]["seconds"], []
    for contestant, result in found.items():
        times = [f"{statistics.median(own):.0f} s ({ratio(peer[task], own):.1f}×)" for task, own in result["seconds"].items()]
        rows.append([contestant, *times, f"{statistics.median(result['memory']) / 1e9:.1f} GB"])
    return table(("", *(PEOPLE[task] for task in peer), "peak memory"), rows)


def llama() -> str:
    """The decoder beside llama.cpp's."""
    found = read("llama-cpp-eight-avx2.json")
    peer, rows = found["results"]["llama.cpp"]["seconds"], []
    for name, result in found["results"].items():
        beside = found["logits beside llama.cpp's in fp16"][name]
        times = result["seconds"]
        rows.append([
            "this package, int4" if name == "ours" else f"{name}, {found['quantisation']}",
            f"{statistics.median(times['prompt']):.1f} s ({ratio(peer['prompt'], times['prompt']):.2f}×)",
            f"{1000 * statistics.median(times['step']):.0f} ms ({ratio(peer['step'], times['step']):.2f}×)",
            f"{result['opening']:.1f} s",
            f"{result['memory'] / 1e9:.2f} GB",
            f"{beside['relative difference']:.2f}",
            f"{100 * beside['same next token']:.0f} %",
        ])  # fmt: skip
    head = ("", "prompt", "step", "opens in", "memory", "logits' difference to fp16", "same next token")
    return table(head, rows)


def rates(name: str) -> str:
    """What the products reach alone."""
    rows = []
    for one in read(f"limits-{name}.json")["alone"]:
        shape = [one[size] for size in ("rows", "inputs", "outputs")]
        speeds = (count / one["seconds"] / 1e9 for count in (math.prod(shape), one["weight_bytes"]))
        rows.append([one["kind"], " × ".join(f"{size:,}" for size in shape), *(f"{speed:.1f}" for speed in speeds)])
    return table(
        ("weights", "rows × inputs × outputs", "thousand million multiply-adds a second", "GB of weights a second"), rows
    )


def machine(name: str) -> str:
    about = read(f"cpu-full-{name}.json")["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"{about['processor']}, {about['cores']} cores, {about['memory'] / 2**30:.0f} GiB, "
        f"{', '.join(about['instructions'])}; Python {about['python']}, {versions}"
    )


def text() -> str:
    sections = {
        f"{name} {kind}": make(kind)
        for kind in MACHINES
        for name, make in (("MACHINE", machine), ("EXPORTS", exports), ("SPEED", speed), ("GOALS", goals), ("MEMORY", memory))
    }
    sections |= {
        "EXPORTS idefics": exports("idefics"), "IDEFICS PEAK": idefics_peak(), "IDEFICS TRAINED": idefics_trained(),
        "EXPORTS avx2": exports("avx2"), "PEOPLE": people("full-photo-avx2"), "PEOPLE EIGHT": people("eight-photo-avx2"),
        "LLAMA": llama(), "QUALITY": quality(), "LAYERS": layers(), "SENSITIVITY": sensitivity(),
        "OPTIONS8": session_options("int8"), "OPTIONS4": session_options("int4"),
    }  # fmt: skip
    for path in RESULTS.glob("limits-*.json"):
        name = path.stem.removeprefix("limits-")
        sections |= {f"LIMITS {name}": limits(name), f"RATES {name}": rates(name)}
    found = Path(__file__).with_name("report.md").read_text()
    for name, section in sections.items():
        found = found.replace(f"{{{name}}}", section)
    return found


def idefics_peak() -> str:
    compared = next(run for run in read("export-idefics.jsonl") if run["verify"] == "auto")
    return f"{compared['peak_rss_bytes_of_its_processes'] / 1e9:.2f} GB"


def idefics_trained() -> str:
    found = read("idefics-trained.json")
    found.pop("seconds")
    rows = [[task, *(f"{one[what]} of {one['cases']}" for what in ("right", "alike"))] for task, one in found.items()]
    total = {what: sum(one[what] for one in found.values()) for what in ("right", "alike", "cases")}
    rows.append(["all", *(f"{100 * total[what] / total['cases']:.1f} %" for what in ("right", "alike"))])
    return table(("", "right", "as transformers answers"), rows)


def drawing() -> Any:
    """matplotlib's pyplot, which draws the same file from the same figures."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "idefics2-onnx"
    return plt


def plot(name: str, path: Path) -> None:
    """Times of the full shape relative to transformers'."""
    plt = drawing()
    found = read(f"cpu-full-{name}.json")
    peer, others = found["results"][PEER]["seconds"], [name for name in found["results"] if name != PEER]
    figure, axes = plt.subplots(figsize=(8, 3.5))
    for place, contestant in enumerate(others):
        seconds = found["results"][contestant]["seconds"]
        ratios, width = [ratio(peer[task], seconds[task]) for task in peer], 0.8 / len(others)
        axes.bar([i + width * (place + 0.5) - 0.4 for i in range(len(peer))], ratios, 0.93 * width, label=contestant)
    axes.axhline(1, color="black", linewidth=1)
    axes.set_xticks(range(len(peer)), [TASKS[task].format(**found).rpartition(",")[0] for task in peer])
    axes.set_ylabel(f"times as fast as {PEER}")
    axes.legend()
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


def plot_limits(name: str, path: Path) -> None:
    """The seconds of an answer's parts, and what the processor could do."""
    plt = drawing()
    parts = {part: own for part, own in read(f"limits-{name}.json")["parts"].items() if own["seconds"] >= SHOWN}
    figure, axes = plt.subplots(figsize=(8, 3.5))
    axes.barh(list(parts), [own["seconds"] for own in parts.values()], label="seconds")
    limited = {part: own["limit"] for part, own in parts.items() if "limit" in own}
    axes.plot(list(limited.values()), list(limited), "|", color="black", markersize=20, markeredgewidth=2, label="limit")
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.legend()
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    docs = Path(__file__).parents[1] / "docs"
    (docs / "benchmarks.md").write_text(text())
    for kind in MACHINES:
        plot(kind, docs / f"speed-{kind}.svg")
    plot_limits("full-int4fast", docs / "photo-avx2.svg")
