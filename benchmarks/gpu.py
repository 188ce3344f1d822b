"""Everything that only a GPU can show: parity, speed and memory of every precision, beside transformers.

    python benchmarks/gpu.py prepare PLACE                 checkpoints with random weights and their model folders, about 80 GB
    python benchmarks/gpu.py run PLACE [--json FILE]
    python benchmarks/gpu.py merge FILE...                 files of single contestants, as one

`prepare` and `run` go on where the last call stopped, and start nothing new after --minutes: call them until nothing is left,
which run says. What is measured is named by its key in the JSON file; delete a key to measure it again. Folders that are not
there are passed over: on a smaller disk, `prepare --precisions fp32,fp16` and so on, and remove in between what has been
measured. With small checkpoints in PLACE/full and PLACE/layers, `--device cpu --contexts 64,128 --cases 2` tries the script
itself, without bf16.
`--only CONTESTANT` runs one of them in this process, several at a time on a large machine where nothing is timed.

PLACE holds full/ (any checkpoint of the real widths), full-PRECISION/, layers/ (a few of its layers) and layers-PRECISION/, and
demo-PRECISION/. Where full/ is missing, the peers repeat the layers of layers/, as `repeat_layers.py` does for full-PRECISION/.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import gpu_ours
from gpu_results import OVER, Results, merge, table
from idefics2_onnx.demo.tasks import TASKS
from idefics2_onnx.runtime.devices.machine import Machine

ROOT = Path(__file__).parents[1]
FLAGS = {
    "fp32": ["--fp32", "--attention", "standard"],  # ONNX Runtime's own attention has no fp32 on GPUs
    "fp16": ["--fp16"],
    "bf16": ["--bf16"],
    "int4": ["--int4", "--for", "cuda"],
    "int4-32": ["--int4", "--for", "cuda", "--group-size", "32"],
    "int8": ["--int8", "--for", "cuda"],
}
PARITY = ["fp32", "fp16", "bf16", "int4", "int4-32, mixed GEMM", "int8"]
SPEED = [
    "fp16", "fp16, CUDA graph", "bf16", "bf16, CUDA graph", "int4", "int4, CUDA graph", "int4-32, mixed GEMM",
    "int4-32, mixed GEMM, CUDA graph", "int8", "int8, CUDA graph",
]  # fmt: skip
SCHEDULED = ["fp32", "fp16", "fp16, CUDA graph"]
MEMORY = ["fp16, CUDA graph", "int4, CUDA graph"]
PROFILES = ["fp16", "fp16, CUDA graph", "int4"]
PEERS = ["sdpa", "eager", "compiled, static cache"]
CASES = 500


def export(checkpoint: Path, folder: Path, precision: str) -> None:
    """With the command that users have, in a process of its own."""
    if folder.exists():
        return
    program = [sys.executable, "-c", "from idefics2_onnx.cli import main; main()"]
    subprocess.run([*program, "export", str(checkpoint), "-o", str(folder), "--verify", "never", *FLAGS[precision]], check=True)


def prepare(
    place: Path, precisions: list[str], layers: tuple[int, int], device: str, graphs: Path | None, minutes: float
) -> None:
    """Starts nothing new after so many minutes; goes on where the last call stopped.

    `graphs`: folders full-PRECISION without data; the layers of layers-PRECISION are repeated for them.
    """
    end = time.monotonic() + 60 * minutes

    def in_time() -> None:
        if time.monotonic() > end:
            print("Time is over; call again.", flush=True)
            raise SystemExit(OVER)

    for name, (text, vision) in ({"layers": (2, 2)} | ({} if graphs else {"full": layers})).items():
        if not (place / name / "config.json").exists():
            script = [sys.executable, str(Path(__file__).with_name("make_checkpoint.py")), str(place / name), "--device", device]
            subprocess.run([*script, "--text-layers", str(text), "--vision-layers", str(vision)], check=True)
        in_time()
    for precision in precisions:
        in_time()
        export(ROOT / "demo" / "checkpoint", place / f"demo-{precision}", precision)
        in_time()
        export(place / "layers", place / f"layers-{precision}", precision)
        in_time()
        deep = place / f"full-{precision}"
        if precision == "fp32" or deep.exists():
            continue
        if graphs is None:
            export(place / "full", deep, precision)
        elif (graphs / deep.name).exists():
            from repeat_layers import repeat  # needs onnx

            repeat(graphs / deep.name, place / f"layers-{precision}", deep)


def contestants(parts: list[str]) -> list[str]:
    """Names for --only, in the order in which they run."""
    found = ["answers: cpu, fp32"] if "answers" in parts else []
    found += [f"answers: {name}" for name in PARITY if "answers" in parts]
    found += [f"scheduler: {name}" for name in SCHEDULED if "scheduler" in parts]
    found += [f"layers: {name}" for name in PARITY if "layers" in parts]
    found += [f"ours: {name}" for name in SPEED if "ours" in parts]
    found += [f"transformers: {peer}" for peer in PEERS if "transformers" in parts]
    found += [f"memory: {name}" for name in MEMORY if "memory" in parts]
    found += ["depth: all"] if "depth" in parts else []
    return found + [f"profile: {name}" for name in PROFILES if "profile" in parts]


def measure(place: Path, device: str, results: Results, contestant: str, cases: int, layers: tuple[int, int]) -> None:
    """One contestant, in this process."""
    part, _, name = contestant.partition(": ")
    if part == "answers":
        where, _, rest = name.partition("cpu, ")
        name, _, task = (rest or where).partition(", task ")
        gpu_ours.answering(place, "cpu" if rest else device, results, name, [task] if task else list(TASKS), cases)
        return
    if part == "scheduler":
        gpu_ours.scheduled(place, device, results, name, list(TASKS), cases // 10)
        return
    if part in ("transformers", "depth"):
        if not all(map(importlib.util.find_spec, ("torch", "transformers"))):
            print("There is no torch or transformers here: no peers.")
            return
        import gpu_peers

        if part == "depth":
            gpu_peers.depth(place, device, results, [name for name in FLAGS if name != "fp32"], layers)
        else:
            gpu_peers.timed(place, device, results, name, layers)
        return
    work = {
        "layers": gpu_ours.apart, "ours": gpu_ours.timed, "memory": gpu_ours.memory, "profile": gpu_ours.profiled,
    }[part]  # fmt: skip
    work(place, device, results, name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["prepare", "run", "merge"])
    parser.add_argument("place", type=Path, nargs="+")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"))
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--cases", type=int, default=CASES, help="Questions to the demo, per task.")
    parser.add_argument("--precisions", default=",".join(FLAGS), help="What to prepare.")
    parser.add_argument("--graphs", type=Path, help="Folders full-PRECISION without data, to be filled with repeated layers.")
    parser.add_argument("--parts", default="answers,scheduler,layers,ours,memory,transformers,depth,profile")
    parser.add_argument("--only", help="One contestant, in this process.")
    parser.add_argument("--contexts", default="512,4096", help="Tokens before the steps that are measured.")
    parser.add_argument("--batches", default="1,8,32", help="Rows of the steps that are measured.")
    parser.add_argument("--text-layers", type=int, default=32)
    parser.add_argument("--vision-layers", type=int, default=27)
    chosen = parser.parse_args()
    place, layers = chosen.place[0], (chosen.text_layers, chosen.vision_layers)
    if chosen.what == "prepare":
        prepare(
            place, [name for name in chosen.precisions.split(",") if name], layers, chosen.device, chosen.graphs, chosen.minutes
        )
        raise SystemExit
    contexts, batches = ([int(count) for count in counts.split(",")] for counts in (chosen.contexts, chosen.batches))
    held = Results(chosen.json, chosen.minutes, contexts, batches)
    if chosen.what == "merge":
        held.found = merge(chosen.place)
        chosen.json.write_text(json.dumps(held.found, indent=1, ensure_ascii=False) + "\n")
        print(table(held, SPEED, PEERS))
        raise SystemExit
    if chosen.only:
        measure(place, chosen.device, held, chosen.only, chosen.cases, layers)
        raise SystemExit
    held.put("machine", lambda: vars(Machine.here()) | {"gpus": [vars(gpu) for gpu in Machine.here().gpus]})
    failed = []
    for each in contestants(chosen.parts.split(",")):  # in processes of their own: none leaves memory behind
        if chosen.device == "cpu" and "bf16" in each:
            continue
        done = subprocess.run([sys.executable, *sys.argv, "--only", each, "--minutes", str(held.minutes_left)])
        if done.returncode == OVER:
            raise SystemExit(OVER)
        if done.returncode:
            failed.append(each)
        held = Results(chosen.json, held.minutes_left, contexts, batches)
    print(table(held, SPEED, PEERS))
    if failed:
        raise SystemExit(f"Ended early, see above: {', '.join(failed)}.")
    print("Nothing is left.")
