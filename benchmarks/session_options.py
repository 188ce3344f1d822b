"""What ONNX Runtime's session options do to opening, memory, prompts and steps of a model folder on this processor.

    python benchmarks/session_options.py FOLDER [--rounds 3] [--json FILE]

Each set of options is a process of its own, and all of them take turns. The package uses the defaults without memory patterns,
and takes more care of sums for quantised folders on processors without AMX: see runtime/devices/sessions.py.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from cpu import Ours

WAYS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "no busy waiting": {"session.intra_op.allow_spinning": "0"},
    "no arena": {"enable_cpu_mem_arena": False},
    "no memory patterns": {"enable_mem_pattern": False},
    "weights outside the arena": {"session.use_device_allocator_for_initializers": "1"},
    "one thread": {"intra_op_num_threads": 1},
    "weights prepared side by side": {"session.prepack.enable_parallel": "1"},
    "weights not prepared": {"session.disable_prepacking": "1"},
}


def measure(folder: str, way: dict[str, Any]) -> dict[str, float]:
    """Seconds, and bytes of memory."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    for name, value in way.items():
        if "." in name:
            options.add_session_config_entry(name, value)
        else:
            setattr(options, name, value)
    ours = Ours(folder, "cpu", options)
    found = {"opening": ours.opening}
    for task, times in (("prompt", 2), ("step", 10)):
        seconds = []
        for _ in range(times):
            start = time.perf_counter()
            getattr(ours, task)()
            seconds.append(time.perf_counter() - start)
        found[task] = statistics.median(seconds[times // 2 :])  # the first ones warm up
    return found | {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    for _ in range(options.rounds):
        for name, way in WAYS.items():
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                results[name].append(pool.submit(measure, options.folder, way).result())
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    for name, runs in results.items():
        middle = {what: statistics.median(run[what] for run in runs) for what in runs[0]}
        print(
            f"{name:28} opens in {middle['opening']:5.1f} s, {middle['memory'] / 1e9:5.2f} GB, "
            f"prompt {middle['prompt']:6.3f} s, step {1000 * middle['step']:6.1f} ms"
        )
