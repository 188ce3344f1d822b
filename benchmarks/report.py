"""docs/benchmarks.md and its plots, from the raw results under benchmarks/results: python benchmarks/report.py"""

from __future__ import annotations

import json
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
TASKS = {
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


def exports(machine: str) -> str:
    rows = (
        [
            run["precision"], f"{run['folder_bytes'] / 1e9:.2f} GB", f"{run['seconds']:.0f} s", f"{run['copying']:.0f} s",
            f"{run['seconds'] / run['copying']:.2f}", f"{run['peak_rss_bytes'] / 1e9:.2f} GB",
        ]
        for run in read(f"export-{machine}.jsonl")
    )  # fmt: skip
    return table(("export", "folder", "time", "plain copies", "ratio", "peak memory"), rows)


def as_typed() -> str:
    """The command with its comparison, in a sentence."""
    run = read("export-fp16-as-typed-avx2.json")
    peaks = (f"{run[key] / 1e9:.2f} GB" for key in ("peak_rss_bytes", "peak_rss_bytes_of_its_processes"))
    return (
        f"{run['precision']} took {run['seconds']:.0f} s (plain copies {run['copying']:.0f} s) and\n"
        f"a peak of {' and, in the process that compares, of '.join(peaks)}."
    )


def speed(machine: str) -> str:
    found = read(f"cpu-full-{machine}.json")
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
        "TYPED": as_typed(), "QUALITY": quality(), "LAYERS": layers(), "SENSITIVITY": sensitivity(),
        "OPTIONS8": session_options("int8"), "OPTIONS4": session_options("int4"),
        "GPU PARITY": gpu_parity(), "GPU STEPS": gpu_steps(), "GPU IMAGES": gpu_images(), "GPU KERNELS": gpu_kernels(),
    }  # fmt: skip
    found = Path(__file__).with_name("report.md").read_text()
    for name, section in sections.items():
        found = found.replace(f"{{{name}}}", section)
    return found


def gpu_parity() -> str:
    """Of the first run, but for what it showed to be wrong and the second found mended."""
    first, second, rows = read("gpu-h200-first.json"), read("gpu-h200.json"), []
    for name in ("fp32", "fp16", "bf16", "int8", "int4", "int4-32, mixed GEMM"):
        layers, answers = first[f"parity: layers, {name}"], f"parity: demo, cuda {name}"
        now, before = second.get(answers, first[answers]), first[answers]
        count = f"{now['differ']} of {now['of']:,}" + (
            f" (before: {before['differ']:,})" if before["differ"] > now["differ"] else ""
        )
        rows.append([name, f"{layers['relative error']:.1e}", f"{100 * layers['same next token']:.1f} %", count])
    head = ("folder", "logits of 2 + 2 layers of real width, relative", "same next token", "demo's answers that differ")
    return table(head, rows)


def gpu_steps() -> str:
    """Of one GPU, in two runs."""
    rows = []
    for run, names in (
        ("gpu-h200-first.json", ("fp16", "fp16, CUDA graph", "bf16, CUDA graph", "int4, CUDA graph", "int4-32, mixed GEMM")),
        (
            "gpu-h200.json",
            ("fp16SH, CUDA graph", "fp16SHQ, CUDA graph", "fp16SHQG, CUDA graph", "int4-32SH, mixed GEMM, CUDA graph"),
        ),
    ):
        found = read(run)
        for name in names:
            cells = [found.get(f"ours: {name}, step of {batch} at 512", {}).get("tokens per second") for batch in (1, 8, 32)]
            share = cells[0] * found[f"ours: {name}, bytes of the decoder"] / found["copy bandwidth"]
            speeds = [f"{cell:,.0f}" if cell else "" for cell in cells]
            whole = f"{found[f'ours: {name}, answer']['tokens per second']:.0f}"
            rows.append([name, *speeds, f"{100 * share:.0f} %", whole, f"{found[f'ours: {name}, opens in']:.1f} s"])
    for run, peer in (("gpu-h200-first.json", "sdpa"), ("gpu-h200.json", "eager")):
        cells = [
            read(run).get(f"transformers: {peer}, step of {batch} at 512", {}).get("tokens per second") for batch in (1, 8, 32)
        ]
        rows.append([f"transformers fp16, {peer}", *(f"{cell:,.0f}" if cell else "" for cell in cells), "", "", ""])
    return table(("tokens a second", "1 row", "8", "32", "of the memory's speed", "whole answers", "opens in"), rows)


def gpu_images() -> str:
    first, second = read("gpu-h200-first.json"), read("gpu-h200.json")
    rows = []
    for name, found, key in (
        ("fp16, first run", first, "ours: fp16"),
        ("fp16, mended", second, "ours: fp16"),
        ("transformers fp16, sdpa", first, "transformers: sdpa"),
        ("transformers fp16, eager", second, "transformers: eager"),
    ):
        cells = (
            found[f"{key}, {what} {picture}"]
            for picture in ("980×735 unsplit", "4000×3000 split")
            for what in ("image", "first token")
        )
        rows.append([name, *(f"{1000 * cell:.0f}" for cell in cells)])
    return table(("ms", "980×735", "and first token", "4000×3000 in five", "and first token"), rows)


def gpu_kernels() -> str:
    """The dearest of a step and of an image."""
    rows = []
    for run, key, what in (
        ("gpu-h200-first.json", "profile: fp16, CUDA graph, step of 1 at 512", "fp16, one row"),
        ("gpu-h200.json", "profile: fp16SHQ, CUDA graph, step of 1 at 512", "fp16SHQ, one row"),
        ("gpu-h200-first.json", "profile: int4, step of 1 at 512", "int4, one row"),
        ("gpu-h200.json", "profile: fp16, image 980×735 unsplit", "fp16, image 980×735"),
    ):
        found = read(run)[key]
        dear = [f"{ms:.2f} {_kernel(name)}" for name, ms, _ in found["kernels"][:5]]
        rows.append([what, f"{found['GPU']:.2f}", f"{found['launches']:.0f}", "; ".join(dear)])
    return table(("", "GPU's ms", "launches", "the five dearest, ms"), rows)


def _kernel(name: str) -> str:
    """A kernel's name without its types."""
    return name.removeprefix("void ").split("<")[0].split("(")[0].split("::")[-1] if "::" in name else name.split("_kernel")[0]


def plot(name: str, path: Path) -> None:
    """Times of the full shape relative to transformers'."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "idefics2-onnx"
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


if __name__ == "__main__":
    docs = Path(__file__).parents[1] / "docs"
    (docs / "benchmarks.md").write_text(text())
    for kind in MACHINES:
        plot(kind, docs / f"speed-{kind}.svg")
