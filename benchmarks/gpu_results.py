"""What benchmarks/gpu.py has measured: a JSON file that grows, figure by figure, and what the figures amount to."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from idefics2_onnx.runtime.errors import Idefics2OnnxError

STEPS = 32
OVER = 3
"""Exit status where the time was over."""


class Results:
    """The JSON file, and the time that is left."""

    def __init__(self, path: Path, minutes: float, contexts: list[int], batches: list[int]) -> None:
        self._path, self._end, self.contexts, self.batches = path, time.monotonic() + 60 * minutes, contexts, batches
        self.found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    @property
    def minutes_left(self) -> float:
        return (self._end - time.monotonic()) / 60

    def cells(self, key: str) -> list[tuple[str, int, int]]:
        """A contestant's decode steps: key, rows, and tokens before them."""
        return [(f"{key}, step of {b} at {c}", b, c) for c in self.contexts for b in self.batches]

    def missing(self, keys: list[str]) -> list[str]:
        return [key for key in keys if key not in self.found]

    def put(self, key: str, measure: Callable[[], Any]) -> None:
        """Measure what is not there yet; end the program where the time is over."""
        if key in self.found:
            return
        if time.monotonic() > self._end:
            print("Time is over; call again.", flush=True)
            raise SystemExit(OVER)
        start = time.monotonic()
        self.found[key] = measure()
        self._path.write_text(json.dumps(self.found, indent=1) + "\n")
        print(f"{key}: {json.dumps(self.found[key])[:300]}  ({time.monotonic() - start:.1f} s)", flush=True)


def failing(measure: Callable[[], Any]) -> Callable[[], Any]:
    """The same, with the package's errors as results: what one contestant cannot do leaves the others' figures alone."""

    @wraps(measure)
    def found() -> Any:
        try:
            return measure()
        except Idefics2OnnxError as error:
            return {"failed": str(error)}

    return found


def medians(work: Callable[[], Any], times: int) -> float:
    """Seconds, after two rounds that do not count."""
    seconds = []
    for _ in range(times + 2):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def merge(paths: list[Path]) -> dict[str, Any]:
    """Files of contestants that ran apart, as one, in which answers are counted and only those that differ are shown."""
    found: dict[str, Any] = {}
    for path in paths:
        found |= json.loads(path.read_text())
    expected = _answers(found, "cpu fp32")
    for who in sorted({key.split(": ")[1].split(", task ")[0] for key in found if key.startswith("answers: ")}):
        if who == "cpu fp32" or not expected:
            continue
        given = _answers(found, who)
        pairs = [(task, a, b) for task in given for a, b in zip(expected.get(task, []), given[task], strict=False)]
        differing = [pair for pair in pairs if pair[1] != pair[2]]
        found[f"parity: demo, {who}"] = {
            "differ": len(differing),
            "of": len(pairs),
            "percent": 100 * len(differing) / max(1, len(pairs)),
            "differing": differing[:20],
        }
    return {key: value for key, value in found.items() if not key.startswith("answers: ")}


def _answers(found: dict[str, Any], who: str) -> dict[str, list[str]]:
    """Of one contestant, by task."""
    head = f"answers: {who}, task "
    return {key.removeprefix(head): texts for key, texts in found.items() if key.startswith(head) and isinstance(texts, list)}


def table(results: Results, ours: list[str], theirs: list[str]) -> str:
    """Steps of everybody, in tokens a second."""
    lines = [f"{'':36}" + "".join(f"{f'{batch} at {context}':>14}" for _, batch, context in results.cells(""))]
    for who in (*(f"ours: {name}" for name in ours), *(f"transformers: {peer}" for peer in theirs)):
        each = (results.found.get(cell, {}).get("tokens per second", float("nan")) for cell, *_ in results.cells(who))
        lines.append(f"{who:36}" + "".join(f"{found:14.1f}" for found in each))
    return "\n".join(lines + _verdicts(results, ours, theirs))


def _verdicts(results: Results, ours: list[str], theirs: list[str]) -> list[str]:
    """Single rows beside what the GPU's memory allows and beside transformers; what is missing is left out."""

    def speed(who: str, context: int) -> float:
        return float(results.found.get(f"{who}, step of 1 at {context}", {}).get("tokens per second", "nan"))

    lines = []
    for name in ours:
        who = f"ours: {name}"
        for context in results.contexts:
            weights, bandwidth = (
                results.found.get(key, float("nan")) for key in (f"{who}, bytes of the decoder", "copy bandwidth")
            )
            shares = [f"{100 * speed(who, context) * weights / bandwidth:.0f} % of the memory's speed"]
            shares += [f"{speed(who, context) / speed(f'transformers: {peer}', context):.2f} x {peer}" for peer in theirs]
            if found := [share for share in shares if not share.startswith("nan")]:
                lines.append(f"{who} at {context}: {', '.join(found)}")
    return lines
