"""IDEFICS on a GPU: parity, speed and memory, beside transformers.

    python benchmarks/gpu_idefics.py prepare PLACE [--small CHECKPOINT] [--text-layers 8] [--vision-layers 32]
    python benchmarks/gpu_idefics.py run PLACE [--json FILE] [--only CONTESTANT]

PLACE holds nine/, a checkpoint of idefics-9b's widths with some of its layers and random weights, nine-PRECISION/, and of a small
trained one (`train_idefics.py`) small-PRECISION/. As with gpu.py, `run` goes on where the last call stopped, what is not there is
passed over, and `--only` runs one contestant in this process. With a small checkpoint in PLACE/nine, `--device cpu` tries the
script itself, without bf16.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import gpu_ours
import numpy as np
from cpu import idefics_ids
from evaluate_idefics import TASKS, answers
from gpu import FLAGS, export
from gpu_results import OVER, STEPS, Results, failing, medians

PRECISIONS = ["fp16", "bf16", "int4", "int8"]
SPEED = ["fp16", "fp16, CUDA graph", "int4, CUDA graph"]
NEW = 64


def prepare(place: Path, small: Path | None, layers: tuple[int, int], device: str, precisions: list[str]) -> None:
    """Checkpoint and folders that are not there yet."""
    if not (place / "nine" / "config.json").exists():
        script = [sys.executable, str(Path(__file__).with_name("make_checkpoint.py")), str(place / "nine")]
        sizes = ["--text-layers", str(layers[0]), "--vision-layers", str(layers[1])]
        subprocess.run([*script, "--model", "idefics-9b", "--device", device, *sizes], check=True)
    for precision in precisions:
        if small is not None:
            export(small, place / f"small-{precision}", precision)
        if precision != "fp32":
            export(place / "nine", place / f"nine-{precision}", precision)


def inputs_of(model: Any) -> dict[str, Any]:
    """A prompt of 104 tokens about one image."""
    sizes = model.engine.sizes
    pixels = np.random.default_rng(0).uniform(-1, 1, (1, 1, 3, sizes.image_size, sizes.image_size))
    ids = idefics_ids(sizes.image_token_id)
    seen = (ids == sizes.image_token_id).cumsum(1)[..., None]
    return {"input_ids": ids, "pixel_values": pixels.astype(model.engine.pixel_type), "image_attention_mask": seen}


def answering(place: Path, device: str, results: Results, name: str, cases: int) -> None:
    """The small model's answers."""
    precision, device = name.removeprefix("cpu, "), "cpu" if name.startswith("cpu, ") else device
    keys = {task: f"answers: {device} {precision}, task {task}" for task in TASKS}
    if gpu_ours.prepared(place / "small", precision) and results.missing(list(keys.values())):
        model = gpu_ours.opened(place / "small", precision, device)
        for task, key in keys.items():
            results.put(key, failing(partial(answers, model, task, range(cases))))


def apart(place: Path, device: str, results: Results, name: str) -> None:
    """Logits of some full-width layers beside transformers in fp32."""
    stored = place / "nine-fp32.npy"
    if not gpu_ours.prepared(place / "nine", name) or not stored.exists():
        return
    model = gpu_ours.opened(place / "nine", name, device)
    results.put(f"parity: layers, {name}", failing(lambda: gpu_ours.difference(model.logits(inputs_of(model)), np.load(stored))))


def timed(place: Path, device: str, results: Results, name: str) -> None:
    """The first token, a whole answer, steps and memory."""
    key = f"ours: {name}"
    if not gpu_ours.prepared(place / "nine", name) or not results.missing([f"{key}, memory"]):
        return
    before = gpu_ours.used()
    model = gpu_ours.opened(place / "nine", name, device)
    asked = inputs_of(model)
    tile = asked["pixel_values"][0, 0]
    results.put(f"{key}, bytes", lambda: sum(file.size for file in model.folder.manifest.files.values()))
    results.put(f"{key}, image", failing(lambda: medians(lambda: model.engine.encode_images([tile]), 5)))
    results.put(f"{key}, first token", failing(lambda: medians(lambda: ask(model, asked, 1), 5)))
    results.put(f"{key}, answer of {NEW}", failing(lambda: medians(lambda: ask(model, asked, NEW), 3)))
    for cell, batch, context in results.cells(key):
        recorded = "CUDA graph" in name and device != "cpu"
        results.put(cell, failing(partial(gpu_ours.stepping, model, batch, context, recorded)))
    results.put(f"{key}, memory", lambda: gpu_ours.used() - before)


def ask(model: Any, asked: dict[str, Any], new: int) -> None:
    model.generate(**asked, max_new_tokens=new, min_new_tokens=new, eos_token_id=[])


def profiled(place: Path, device: str, results: Results, name: str) -> None:
    """Kernels of a step and of a first token."""
    if not gpu_ours.prepared(place / "nine", name) or device == "cpu":
        return
    model = gpu_ours.opened(place / "nine", name, device)
    step, many = gpu_ours.steps(model, 1, results.contexts[0])
    results.put(f"profile: {name}, step of 1", failing(partial(gpu_ours._kernels, lambda: many(step.greedy), STEPS)))
    if "CUDA graph" not in name:
        asked = inputs_of(model)
        results.put(f"profile: {name}, first token", failing(partial(gpu_ours._kernels, lambda: ask(model, asked, 1), 1)))


def theirs(place: Path, device: str, results: Results, name: str) -> None:
    """transformers: logits in fp32 for `apart`, then the same figures in fp16."""
    import gpu_peers
    import torch
    from transformers import IdeficsForVisionText2Text

    torch.set_grad_enabled(False)
    key = f"transformers: {name}"
    any_folder = next(place.glob("nine-*/"))
    numpy_inputs = inputs_of(gpu_ours.opened(place / "nine", any_folder.name.removeprefix("nine-"), "cpu"))
    kind: Any = IdeficsForVisionText2Text
    for dtype in (torch.float32, torch.float16):
        model = kind.from_pretrained(place / "nine", dtype=dtype, attn_implementation=name).eval().to(device)
        tensors = {what: torch.from_numpy(np.asarray(array)).to(device) for what, array in numpy_inputs.items()}
        tensors |= {
            "pixel_values": tensors["pixel_values"].to(dtype),
            "attention_mask": torch.ones_like(tensors["input_ids"]),
        }
        logits = model(**tensors).logits.float().cpu().numpy()
        if dtype == torch.float32:
            np.save(place / "nine-fp32.npy", logits)
            del model
            continue
        results.put(
            f"parity: layers, transformers {name} fp16",
            lambda: gpu_ours.difference(logits, np.load(place / "nine-fp32.npy")),  # noqa: B023
        )

        def ask_them(new: int) -> None:
            model.generate(**tensors, do_sample=False, max_new_tokens=new, min_new_tokens=new)  # noqa: B023

        results.put(f"{key}, first token", lambda: medians(lambda: gpu_peers.waited(lambda: ask_them(1), device), 5))
        results.put(f"{key}, answer of {NEW}", lambda: medians(lambda: gpu_peers.waited(lambda: ask_them(NEW), device), 3))
        steps = []
        for _ in range(2):
            clock = gpu_peers._Clock()
            model.generate(**tensors, do_sample=False, max_new_tokens=STEPS, min_new_tokens=STEPS, streamer=clock)
            steps = np.diff(clock.times[2:]).tolist()
        middle = statistics.median(steps)
        results.put(f"{key}, step of 1", lambda: {"ids": 1000 * middle, "tokens per second": 1 / middle})  # noqa: B023
        results.put(f"{key}, memory", lambda: torch.cuda.max_memory_reserved() if device != "cpu" else 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["prepare", "run"])
    parser.add_argument("place", type=Path)
    parser.add_argument("--small", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--text-layers", type=int, default=8)
    parser.add_argument("--vision-layers", type=int, default=32)
    parser.add_argument("--precisions", default=",".join(["fp32", *PRECISIONS]))
    parser.add_argument("--json", type=Path, default=Path("gpu-idefics.json"))
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--cases", type=int, default=200, help="Questions of each task.")
    parser.add_argument("--contexts", default="512")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--only")
    chosen = parser.parse_args()
    assert set(PRECISIONS) <= set(FLAGS)
    if chosen.what == "prepare":
        layers = (chosen.text_layers, chosen.vision_layers)
        prepare(chosen.place, chosen.small, layers, chosen.device, chosen.precisions.split(","))
        return
    contexts, batches = ([int(count) for count in counts.split(",")] for counts in (chosen.contexts, chosen.batches))
    results = Results(chosen.json, chosen.minutes, contexts, batches)
    if chosen.only:
        part, _, name = chosen.only.partition(": ")
        if part == "answers":
            answering(chosen.place, chosen.device, results, name, chosen.cases)
        else:
            work = {"layers": apart, "ours": timed, "profile": profiled, "transformers": theirs}[part]
            work(chosen.place, chosen.device, results, name)
        return
    contestants = ["transformers: sdpa", "answers: cpu, fp32"]
    contestants += [f"{part}: {name}" for part in ("answers", "layers") for name in PRECISIONS]
    contestants += [f"ours: {name}" for name in SPEED] + [f"profile: {name}" for name in SPEED]
    for each in contestants:
        start = time.perf_counter()
        done = subprocess.run([sys.executable, *sys.argv, "--only", each])
        if done.returncode == OVER:
            raise SystemExit(OVER)
        print(f"{each}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
