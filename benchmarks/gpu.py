"""Everything that only a graphics card can show: parity, speed and memory of every precision, beside transformers.

    python benchmarks/gpu.py prepare PLACE                 checkpoints with random weights and their model folders, about 80 GB
    python benchmarks/gpu.py run PLACE [--json FILE]

Both go on where the last call stopped, and start nothing new after --minutes: call them until nothing is left, which run says.
What is measured is named by its key in the JSON file; delete a key to measure it again. Folders that are not there are passed
over: on a smaller disk, `prepare --precisions fp32,fp16` and so on, and remove in between what has been measured. With small
checkpoints in PLACE/full and PLACE/layers, `--device cpu --contexts 64,128 --cases 2` tries the script itself, without bf16.

PLACE holds full/ (any checkpoint of the real widths), full-PRECISION/, layers/ (a few of its layers) and layers-PRECISION/, and
demo-PRECISION/.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np
from idefics2_onnx import CardOptions, Idefics2, Idefics2OnnxError, Idefics2Processor
from idefics2_onnx.demo.evaluate import answers
from idefics2_onnx.demo.tasks import TASKS
from idefics2_onnx.runtime import cuda_runtime
from idefics2_onnx.runtime.decode_step import DecodeStep
from idefics2_onnx.runtime.engine import NOT_RECORDED
from idefics2_onnx.runtime.machine import Machine

ROOT = Path(__file__).parents[1]
FLAGS = {
    "fp32": ["--fp32", "--attention", "standard"],  # ONNX Runtime's own attention has no fp32 on cards
    "fp16": ["--fp16"],
    "bf16": ["--bf16"],
    "int4": ["--int4", "--for", "cuda"],
    "int4-32": ["--int4", "--for", "cuda", "--group-size", "32"],
}
OPTIONS = {"CUDA graph": CardOptions(cuda_graph=True), "mixed GEMM": CardOptions(mixed_gemm=True), "": CardOptions()}
PARITY = ("fp32", "fp16", "bf16", "int4", "int4-32, mixed GEMM")
SPEED = (
    "fp16", "fp16, CUDA graph", "bf16", "bf16, CUDA graph", "int4", "int4, CUDA graph", "int4-32", "int4-32, mixed GEMM",
)  # fmt: skip
BATCHES, STEPS = (1, 8, 32), 32
WIDTH, HEIGHT, PROMPT = 980, 735, 64
PEERS = ("eager", "sdpa", "static cache, compiled")
CASES = 500
OVER = 3
"""Exit status where the time was over."""


class Results:
    """The JSON file, and the time that is left."""

    def __init__(self, path: Path, minutes: float, contexts: list[int]) -> None:
        self._path, self._end, self.contexts = path, time.monotonic() + 60 * minutes, contexts
        self.found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    @property
    def minutes_left(self) -> float:
        return (self._end - time.monotonic()) / 60

    def cells(self, key: str) -> list[tuple[str, int, int]]:
        """A contestant's decode steps: key, rows, and tokens before them."""
        return [(f"{key}, step of {b} at {c}", b, c) for c in self.contexts for b in BATCHES]

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
        print(f"{key}: {json.dumps(self.found[key])}  ({time.monotonic() - start:.0f} s)", flush=True)


def export(checkpoint: Path, folder: Path, precision: str) -> None:
    """With the command that users have, in a process of its own."""
    if folder.exists():
        return
    program = [sys.executable, "-c", "from idefics2_onnx.cli import main; main()"]
    subprocess.run([*program, "export", str(checkpoint), "-o", str(folder), "--verify", "never", *FLAGS[precision]], check=True)


def prepare(place: Path, precisions: list[str], text_layers: int, vision_layers: int, minutes: float) -> None:
    """Starts nothing new after so many minutes; goes on where the last call stopped."""
    end = time.monotonic() + 60 * minutes

    def in_time() -> None:
        if time.monotonic() > end:
            print("Time is over; call again.", flush=True)
            raise SystemExit(OVER)

    for name, layers in (("full", (text_layers, vision_layers)), ("layers", (2, 2))):
        if not (place / name / "config.json").exists():
            script = [sys.executable, str(Path(__file__).with_name("make_checkpoint.py")), str(place / name)]
            subprocess.run([*script, "--text-layers", str(layers[0]), "--vision-layers", str(layers[1])], check=True)
        in_time()
    for precision in precisions:
        for name in ("demo", "layers") if precision == "fp32" else ("demo", "layers", "full"):
            in_time()
            export(ROOT / "demo" / "checkpoint" if name == "demo" else place / name, place / f"{name}-{precision}", precision)


def prepared(place: Path, name: str) -> bool:
    """Whether a contestant's folder is there; if not, that is said."""
    folder = Path(f"{place}-{name.partition(', ')[0]}")
    if not folder.exists():
        print(f"{name}: there is no {folder}.", flush=True)
    return folder.exists()


def opened(place: Path, name: str, device: str) -> Idefics2:
    """The folder that a contestant's name begins with, with the options that it ends with."""
    precision, _, options = name.partition(", ")
    return Idefics2.from_pretrained(f"{place}-{precision}", device, card_options=OPTIONS[options], image_cache=0)


def failing(measure: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """The same, with the package's errors as results: what one contestant cannot do leaves the others' figures alone."""

    @wraps(measure)
    def found() -> dict[str, Any]:
        try:
            return measure()
        except Idefics2OnnxError as error:
            return {"failed": str(error)}

    return found


def parity(place: Path, device: str, results: Results, cases: int) -> None:
    """The demo's answers and a few full-width layers' logits beside fp32 on the processor."""
    there = [name for name in PARITY if prepared(place / "demo", name) and prepared(place / "layers", name)]
    if "fp32" not in there or not results.missing([f"parity: {what}, {name}" for what in ("demo", "layers") for name in there]):
        return
    reference = opened(place / "demo", "fp32", "cpu")
    for task in TASKS:
        key = f"answers: {task}"
        results.put(key, lambda task=task: [text for text, _ in answers(reference, task, range(cases))])  # type: ignore[misc]
    for precision in there:

        @failing
        def differing(precision: str = precision) -> dict[str, Any]:
            model, differ = opened(place / "demo", precision, device), 0
            for task in TASKS:
                found = [text for text, _ in answers(model, task, range(cases))]
                differ += sum(a != b for a, b in zip(found, results.found[f"answers: {task}"], strict=True))
            return {"differ": differ, "of": cases * len(TASKS), "percent": 100 * differ / (cases * len(TASKS))}

        results.put(f"parity: demo, {precision}", differing)
    for precision in there:

        @failing
        def apart(precision: str = precision) -> dict[str, Any]:
            expected, found = (some_logits(opened(place / "layers", p, d)) for p, d in (("fp32", "cpu"), (precision, device)))
            return {
                "relative error": float(np.linalg.norm(found - expected) / np.linalg.norm(expected)),
                "same next token": float((found.argmax(-1) == expected.argmax(-1)).mean()),
                "finite": bool(np.isfinite(found).all()),
            }

        results.put(f"parity: layers, {precision}", apart)


def some_logits(model: Idefics2) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Of a prompt with an image, at every position."""
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (378, 378, 3), dtype=np.uint8)
    text = model.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    )
    return model.logits(model.processor(text=text, images=[image]))


def medians(work: Callable[[], Any], times: int) -> float:
    """Seconds, after two rounds that do not count."""
    seconds = []
    for _ in range(times + 2):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def question(place: Path, split: bool) -> dict[str, Any]:
    """A photo and some text, as the processor gives them."""
    processor = Idefics2Processor.from_pretrained(place / "full")
    image = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels = processor.image_processor(image, do_image_splitting=split)
    image_token = json.loads((place / "full" / "config.json").read_text())["image_token_id"]
    marks = [image_token] * (processor.image_seq_len * pixels["pixel_values"].shape[1])
    ids = np.array([[1, *marks, *range(3, 3 + PROMPT)]])
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), **pixels}


def used() -> int:
    """Bytes taken on the card, by anybody."""
    gpus = Machine.here().gpus
    return gpus[0].memory - gpus[0].free if gpus else 0


def ours(place: Path, device: str, results: Results, name: str) -> None:
    """Time to the first token, steps and memory of a folder."""
    key, graph = f"ours: {name}", "CUDA graph" in name
    decodes = results.cells(key)
    firsts = [] if graph else [f"{key}, first token, {way}" for way in ("unsplit", "split")]
    wanted = [*(cell for cell, *_ in decodes), *firsts, f"{key}, memory"]
    if not prepared(place / "full", name) or not results.missing(wanted):
        return
    before, start = used(), time.perf_counter()
    model = opened(place / "full", name, device)
    opening = time.perf_counter() - start
    results.put(f"{key}, opens in", lambda: opening)
    results.put(f"{key}, bytes of the decoder", lambda: model.folder.manifest.files["decoder.onnx.data"].size)
    for way in ("unsplit", "split") if firsts else ():
        asked = question(place, way == "split")
        results.put(f"{key}, first token, {way}", lambda: medians(lambda: model.generate(**asked, max_new_tokens=1), 5))  # noqa: B023
    for cell, batch, context in decodes:
        results.put(cell, failing(partial(stepping, model, batch, context, graph and device != "cpu")))
    results.put(f"{key}, memory", lambda: used() - before)


def stepping(model: Idefics2, batch: int, context: int, recorded: bool) -> dict[str, Any]:
    """Milliseconds a step behind so many tokens, with the logits on the host and with ids only, and the host's part of it.

    `recorded`: as a CUDA graph, or not at all.
    """
    engine, tokens = model.engine, [17] * batch
    cache = engine.new_cache(batch, min(context + 4 * STEPS, engine.sizes.max_positions))
    step = DecodeStep(engine, cache, batch)

    def many(work: Callable[[list[int]], Any]) -> Callable[[], None]:
        def all_of_them() -> None:
            cache.tokens[:] = context
            for _ in range(STEPS):
                work(tokens)

        return all_of_them

    found = {"logits": 1000 * medians(many(step), 3) / STEPS}
    if recorded and step._recording is None:
        return {"failed": "ONNX Runtime did not record it; see its warning"}
    if step.greedy(tokens) is not None:
        found["ids"] = 1000 * medians(many(step.greedy), 3) / STEPS
    found["host"] = 1000 * statistics.median(enqueue(step, tokens) for _ in range(STEPS))
    found["tokens per second"] = 1000 * batch / min(found["logits"], found.get("ids", np.inf))
    return found


def enqueue(step: DecodeStep, tokens: list[int]) -> float:
    """Seconds of a step without waiting for the card: what the host does for it. Waits afterwards."""
    import onnxruntime as ort

    options = ort.RunOptions()
    on_card = step._engine.storage.device != "cpu"
    if on_card:
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    options.add_run_config_entry("gpu_graph_id", str(step._recording or NOT_RECORDED))
    sessions = step._engine.sessions
    start = time.perf_counter()
    step._ids.array[:, 0] = tokens
    step._ids.push()
    step._mask.push()
    sessions.embedding._sess.run_with_iobinding(step._embedding._iobinding, options)
    sessions.decoder._sess.run_with_iobinding(step._decoder._iobinding, options)
    seconds = time.perf_counter() - start
    if on_card:
        cuda_runtime._library().cudaDeviceSynchronize()
    return seconds


def theirs(place: Path, device: str, results: Results, peer: str) -> None:
    """The same of transformers in bf16, and what the card's memory gives."""
    try:
        import torch
        from transformers import Idefics2ForConditionalGeneration
    except ImportError:
        print("There is no torch or transformers here: no peers.")
        return
    results.put("copy bandwidth", lambda: bandwidth(torch, device))
    torch.set_grad_enabled(False)
    key, compiled = f"transformers: {peer}", peer.startswith("static")
    decodes = results.cells(key)
    wanted = [*(cell for cell, *_ in decodes), f"{key}, first token, unsplit", f"{key}, first token, split", f"{key}, memory"]
    if not results.missing(wanted):
        return
    attention = "eager" if peer == "eager" else "sdpa"
    kind = Idefics2ForConditionalGeneration
    model = kind.from_pretrained(place / "full", dtype=torch.bfloat16, attn_implementation=attention).eval().to(device)
    more = {"cache_implementation": "static"} if compiled else {}
    for way in ("unsplit", "split"):
        asked = {name: torch.from_numpy(array).to(device) for name, array in question(place, way == "split").items()}
        asked["pixel_values"] = asked["pixel_values"].bfloat16()
        ask = partial(model.generate, **asked, do_sample=False, max_new_tokens=1)
        results.put(f"{key}, first token, {way}", lambda: medians(lambda: ask()[0, -1].item(), 5))  # noqa: B023
    for cell, batch, context in decodes:
        results.put(cell, partial(their_steps, torch, model, device, batch, context, more))
    results.put(f"{key}, memory", lambda: torch.cuda.max_memory_reserved() if device != "cpu" else 0)


def bandwidth(torch: Any, device: str) -> float:
    """Bytes a second that a copy within the card reads and writes together."""
    source = torch.empty(1 << (32 if device != "cpu" else 26), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        if device != "cpu":
            torch.cuda.synchronize()

    return 2 * source.numel() / medians(copy, 9)


def their_steps(torch: Any, model: Any, device: str, batch: int, context: int, more: dict[str, Any]) -> dict[str, Any]:
    """A step is the difference of a long answer and a short one."""
    ids = torch.randint(3, 200, (batch, context), device=device)

    def answer(new: int) -> Callable[[], Any]:
        return lambda: model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new, min_new_tokens=new, **more
        )[0, -1].item()

    try:
        differences = [medians(answer(2 * STEPS), 1) - medians(answer(STEPS), 1) for _ in range(3)]
    except torch.OutOfMemoryError:
        return {"failed": "out of memory"}
    step = statistics.median(differences) / STEPS
    if step <= 0:
        return {"failed": f"{STEPS} more tokens took no longer than other work on the machine"}
    return {"logits": 1000 * step, "tokens per second": batch / step}


def table(results: Results) -> str:
    """Steps of everybody, in tokens a second."""
    lines = [f"{'':36}" + "".join(f"{f'{batch} at {context}':>14}" for _, batch, context in results.cells(""))]
    for who in (*(f"ours: {name}" for name in SPEED), *(f"transformers: {peer}" for peer in PEERS)):
        each = (results.found.get(cell, {}).get("tokens per second", float("nan")) for cell, *_ in results.cells(who))
        lines.append(f"{who:36}" + "".join(f"{found:14.1f}" for found in each))
    return "\n".join(lines + verdicts(results))


def verdicts(results: Results) -> list[str]:
    """Single rows beside what the card's memory allows and beside transformers; what is missing is left out."""

    def speed(who: str, context: int) -> float:
        return float(results.found.get(f"{who}, step of 1 at {context}", {}).get("tokens per second", "nan"))

    lines = []
    for name in SPEED:
        who = f"ours: {name}"
        for context in results.contexts:
            weights, bandwidth = (
                results.found.get(key, float("nan")) for key in (f"{who}, bytes of the decoder", "copy bandwidth")
            )
            shares = [f"{100 * speed(who, context) * weights / bandwidth:.0f} % of the memory's speed"]
            shares += [f"{speed(who, context) / speed(f'transformers: {peer}', context):.2f} x {peer}" for peer in PEERS]
            if found := [share for share in shares if not share.startswith("nan")]:
                lines.append(f"{who} at {context}: {', '.join(found)}")
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["prepare", "run"])
    parser.add_argument("place", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"))
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--cases", type=int, default=CASES, help="Questions to the demo, per task.")
    parser.add_argument("--precisions", default=",".join(FLAGS), help="What to prepare.")
    parser.add_argument("--parts", default="parity,ours,theirs")
    parser.add_argument("--only", help="One contestant, in this process.")
    parser.add_argument("--contexts", default="512,4096", help="Tokens before the steps that are measured.")
    parser.add_argument("--text-layers", type=int, default=32)
    parser.add_argument("--vision-layers", type=int, default=27)
    chosen = parser.parse_args()
    if chosen.what == "prepare":
        prepare(chosen.place, chosen.precisions.split(","), chosen.text_layers, chosen.vision_layers, chosen.minutes)
        raise SystemExit
    held = Results(chosen.json, chosen.minutes, [int(context) for context in chosen.contexts.split(",")])
    if chosen.device == "cpu":
        PARITY, SPEED = (tuple(name for name in names if "bf16" not in name) for names in (PARITY, SPEED))
    held.put("machine", lambda: vars(Machine.here()) | {"gpus": [vars(gpu) for gpu in Machine.here().gpus]})
    if chosen.only:
        part, _, contestant = chosen.only.partition(": ")
        measures: dict[str, Callable[[Path, str, Results], None]] = {
            "parity": partial(parity, cases=chosen.cases),
            "ours": partial(ours, name=contestant),
            "transformers": partial(theirs, peer=contestant),
        }
        measures[part](chosen.place, chosen.device, held)
        raise SystemExit
    contestants = ["parity"] if "parity" in chosen.parts.split(",") else []
    contestants += [f"ours: {name}" for name in SPEED] if "ours" in chosen.parts.split(",") else []
    contestants += [f"transformers: {peer}" for peer in PEERS] if "theirs" in chosen.parts.split(",") else []
    failed = []
    for each in contestants:  # in processes of their own: none leaves memory behind
        done = subprocess.run([sys.executable, *sys.argv, "--only", each, "--minutes", str(held.minutes_left)])
        if done.returncode == OVER:
            raise SystemExit(OVER)
        if done.returncode:
            failed.append(each)
        held = Results(chosen.json, held.minutes_left, held.contexts)
    print(table(held))
    if failed:
        raise SystemExit(f"Ended early, see above: {', '.join(failed)}.")
    print("Nothing is left.")
