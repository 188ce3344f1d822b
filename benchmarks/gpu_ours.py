"""What benchmarks/gpu.py measures of this package."""

from __future__ import annotations

import cProfile
import json
import pstats
import statistics
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gpu_results import STEPS, Results, failing, medians
from gpu_trace import traced
from idefics2_onnx import Idefics2Processor, Scheduler, load
from idefics2_onnx.demo.evaluate import LONGEST, answers
from idefics2_onnx.demo.tasks import case
from idefics2_onnx.runtime.devices import sessions
from idefics2_onnx.runtime.devices.gpu_options import GpuOptions
from idefics2_onnx.runtime.devices.machine import Machine
from idefics2_onnx.runtime.engine.call import NOT_RECORDED
from idefics2_onnx.runtime.engine.decode_step import DecodeStep
from idefics2_onnx.runtime.memory import cuda_runtime
from idefics2_onnx.runtime.model import Idefics2

OPTIONS = {
    "CUDA graph": GpuOptions(cuda_graph=True),
    "mixed GEMM": GpuOptions(mixed_gemm=True),
    "mixed GEMM, CUDA graph": GpuOptions(mixed_gemm=True, cuda_graph=True),
}
PICTURES = {"980×735 unsplit": (735, 980, False), "4000×3000 split": (3000, 4000, True)}
"""Height, width, and whether it becomes five tiles."""
PROMPT, NEW = 64, 128
HOST_GAP = 5.0
"""Microseconds without work on the GPU that are the host's; shorter ones are between two kernels that stood in line."""


def prepared(place: Path, name: str) -> bool:
    """Whether a contestant's folder is there; if not, that is said."""
    folder = Path(f"{place}-{name.partition(', ')[0]}")
    if not folder.exists():
        print(f"{name}: there is no {folder}.", flush=True)
    return folder.exists()


def opened(place: Path, name: str, device: str) -> Any:
    """The folder that a contestant's name begins with, with the options that it ends with."""
    precision, _, options = name.partition(", ")
    return load(f"{place}-{precision}", device, gpu_options=OPTIONS.get(options), image_cache=0)


def answering(place: Path, device: str, results: Results, name: str, tasks: list[str], cases: int) -> None:
    """The demo's answers to held-out questions."""
    keys = {task: f"answers: {device.partition(':')[0]} {name}, task {task}" for task in tasks}
    if prepared(place / "demo", name) and results.missing(list(keys.values())):
        model = opened(place / "demo", name, device)
        for task, key in keys.items():
            results.put(key, failing(lambda task=task: [text for text, _ in answers(model, task, range(cases))]))


def scheduled(place: Path, device: str, results: Results, name: str, tasks: list[str], cases: int) -> None:
    """The demo's questions, all of a task at once, beside the same ones alone: in half precision a batch rounds otherwise."""
    key = f"scheduler: demo, {name}"
    if not prepared(place / "demo", name) or not results.missing([key]):
        return
    model = opened(place / "demo", name, device)

    def compare() -> dict[str, Any]:
        differing, start = [], time.perf_counter()
        for task in tasks:
            questions = [case(task, "held-out", number).messages for number in range(cases)]
            with Scheduler(model, rows=32) as scheduler:
                handles = [scheduler.submit(messages, max_new_tokens=LONGEST) for messages in questions]
                together = [handle.result().text for handle in handles]
            alone = [model.generate(messages, max_new_tokens=LONGEST).text for messages in questions]
            differing += [[task, a, b] for a, b in zip(together, alone, strict=True) if a != b]
        of = len(tasks) * cases
        return {"differ": len(differing), "of": of, "seconds": time.perf_counter() - start, "differing": differing[:20]}

    results.put(key, failing(compare))


def apart(place: Path, device: str, results: Results, name: str) -> None:
    """A few full-width layers' logits beside fp32 on the processor."""
    if not (prepared(place / "layers", "fp32") and prepared(place / "layers", name)):
        return

    def measure() -> dict[str, Any]:
        stored = place / "layers-fp32.npy"
        if not stored.exists():
            np.save(stored, some_logits(opened(place / "layers", "fp32", "cpu")))
        return difference(some_logits(opened(place / "layers", name, device)), np.load(stored))

    results.put(f"parity: layers, {name}", failing(measure))


def difference(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Of logits [..., vocab]."""
    return {
        "relative error": float(np.linalg.norm(found - expected) / np.linalg.norm(expected)),
        "same next token": float((found.argmax(-1) == expected.argmax(-1)).mean()),
        "finite": bool(np.isfinite(found).all()),
    }


def some_inputs(processor: Idefics2Processor) -> dict[str, Any]:
    """A prompt with an image."""
    image = np.random.default_rng(0).integers(0, 256, (378, 378, 3), dtype=np.uint8)
    text = processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}])
    return dict(processor(text=text, images=[image]))


def some_logits(model: Idefics2) -> np.ndarray[Any, np.dtype[np.float32]]:
    """At every position."""
    return model.logits(some_inputs(model.processor))


def question(folder: Path, picture: str) -> dict[str, Any]:
    """A photo and some text, as the processor of a folder gives them."""
    height, width, split = PICTURES[picture]
    processor = Idefics2Processor.from_pretrained(folder)
    image = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels = processor.image_processor(image, do_image_splitting=split)
    image_token = json.loads((folder / "config.json").read_text())["image_token_id"]
    marks = [image_token] * (processor.image_seq_len * pixels["pixel_values"].shape[1])
    ids = np.array([[1, *marks, *range(3, 3 + PROMPT)]])
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), **pixels}


def asking(model: Idefics2, asked: dict[str, Any]) -> dict[str, Any]:
    """The same with pixels in the graph's type, as the processor gives them to the model in common use."""
    return asked | {"pixel_values": asked["pixel_values"].astype(model.engine.pixel_type)}


def used() -> int:
    """Bytes taken on the GPU, by anybody."""
    gpus = Machine.here().gpus
    return gpus[0].memory - gpus[0].free if gpus else 0


def timed(place: Path, device: str, results: Results, name: str) -> None:
    """Images, the first token, steps, whole answers and memory of a folder."""
    key = f"ours: {name}"
    decodes, graph = results.cells(key), "CUDA graph" in name
    wanted = [*(cell for cell, *_ in decodes), f"{key}, answer", f"{key}, memory"]
    if not prepared(place / "full", name) or not results.missing(wanted):
        return
    before, start = used(), time.perf_counter()
    model = opened(place / "full", name, device)
    opening = time.perf_counter() - start
    results.put(f"{key}, opens in", lambda: opening)
    results.put(f"{key}, bytes of the decoder", lambda: model.folder.manifest.files["decoder.onnx.data"].size)
    results.put(f"{key}, bytes", lambda: sum(file.size for file in model.folder.manifest.files.values()))
    for cell, batch, context in decodes:
        results.put(cell, failing(partial(stepping, model, batch, context, graph and device != "cpu")))
    results.put(f"{key}, answer", failing(partial(answer, model)))
    for picture in () if graph else PICTURES:  # they are no part of a CUDA graph
        asked = asking(model, question(model.folder.path, picture))
        tiles = list(asked["pixel_values"][0])
        results.put(f"{key}, image {picture}", failing(lambda: medians(lambda: model.engine.encode_images(tiles), 5)))  # noqa: B023
        first = partial(model.generate, **asked, max_new_tokens=1)
        results.put(f"{key}, first token {picture}", failing(lambda: medians(first, 5)))  # noqa: B023
    results.put(f"{key}, memory", lambda: used() - before)


def memory(place: Path, device: str, results: Results, name: str) -> None:
    """Where a folder's bytes on the GPU are: what is taken there after one thing and the next."""
    key = f"ours: {name}, bytes after"
    if not prepared(place / "full", name) or not results.missing([key]):
        return
    found, open_one = {"nothing": used()}, sessions._open

    def noted(folder: Any, graph: str, *rest: Any) -> Any:
        session = open_one(folder, graph, *rest)  # type: ignore[arg-type]
        found[f"opening {graph}"] = used()
        return session

    sessions._open = noted  # type: ignore[assignment]
    try:
        model = opened(place / "full", name, device)
    finally:
        sessions._open = open_one
    found["opening"] = used()
    for length in (PROMPT, 512):
        ids = np.arange(length)[None] % 250 + 3
        model.generate(input_ids=ids, attention_mask=np.ones_like(ids), max_new_tokens=2, eos_token_id=[])
        found[f"an answer after {length} tokens"] = used()
    for batch in results.batches:
        step, many = steps(model, batch, results.contexts[0])
        many(step)
        found[f"steps of {batch}"] = used()
        found[f"steps of {batch}, bytes of the cache"] = step._cache.nbytes
        del step, many
        found[f"without that cache of {batch}"] = used()
    for picture in PICTURES:
        model.engine.encode_images(list(asking(model, question(model.folder.path, picture))["pixel_values"][0]))
        found[f"image {picture}"] = used()
    results.put(key, lambda: found)


def answer(model: Idefics2) -> dict[str, float]:
    """Seconds to the first token and to the last, as `generate` takes them, and tokens a second between the two."""
    ids = np.arange(3, 3 + 8 * PROMPT)[None] % 250 + 3
    ask = partial(model.generate, input_ids=ids, attention_mask=np.ones_like(ids))
    first = medians(lambda: ask(max_new_tokens=1), 3)
    whole = medians(lambda: ask(max_new_tokens=NEW, min_new_tokens=NEW), 3)
    return {"first token": first, "tokens": NEW, "seconds": whole, "tokens per second": (NEW - 1) / (whole - first)}


def steps(model: Idefics2, batch: int, context: int) -> tuple[DecodeStep, Callable[[Callable[[list[int]], Any]], None]]:
    """A step behind so many tokens, and what does `STEPS` of them."""
    cache = model.engine.new_cache(batch, min(context + 4 * STEPS, model.engine.sizes.max_positions))
    step = DecodeStep(model.engine, cache, batch)

    def many(work: Callable[[list[int]], Any]) -> None:
        cache.tokens[:] = context
        for _ in range(STEPS):
            work([17] * batch)

    return step, many


def stepping(model: Idefics2, batch: int, context: int, recorded: bool) -> dict[str, Any]:
    """Milliseconds a step, with the logits on the host and with ids only, and the host's part of it.

    `recorded`: as a CUDA graph, or not at all.
    """
    step, many = steps(model, batch, context)
    found: dict[str, Any] = {"logits": 1000 * medians(lambda: many(step), 3) / STEPS}
    if recorded and step._recording is None:
        return {"failed": "ONNX Runtime did not record it; see its warning"}
    if step.greedy([17] * batch) is not None:  # checks that the logits are finite
        found["ids"] = 1000 * medians(lambda: many(step.greedy), 3) / STEPS
    found["host"] = 1000 * statistics.median(enqueue(step, [17] * batch) for _ in range(STEPS))
    found["tokens per second"] = 1000 * batch / min(found["logits"], found.get("ids", np.inf))
    return found


def enqueue(step: DecodeStep, tokens: list[int]) -> float:
    """Seconds of a step without waiting for the GPU: what the host does for it. Waits afterwards."""
    import onnxruntime as ort

    options = ort.RunOptions()
    on_gpu = step._engine.storage.device != "cpu"
    if on_gpu:
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    options.add_run_config_entry("gpu_graph_id", str(step._recording or NOT_RECORDED))
    sessions = step._engine.sessions
    start = time.perf_counter()
    step._ids.array[:, 0] = tokens
    step._ids.push()
    step._mask.push()
    sessions.embedding._sess.run_with_iobinding(step._embedding.binding._iobinding, options)
    sessions.decoder._sess.run_with_iobinding(step._decoder.binding._iobinding, options)
    seconds = time.perf_counter() - start
    if on_gpu:
        cuda_runtime._library().cudaDeviceSynchronize()
    return seconds


def profiled(place: Path, device: str, results: Results, name: str) -> None:
    """The GPU's kernels in a step of one row, of the most rows, in a prompt and in an image, by PyTorch's profiler."""
    if not prepared(place / "full", name) or device == "cpu":
        return
    model = opened(place / "full", name, device)
    for batch in results.batches:
        step, many = steps(model, batch, results.contexts[0])
        key = f"profile: {name}, step of {batch} at {results.contexts[0]}"
        results.put(key, failing(partial(_kernels, lambda: many(step.greedy), STEPS)))  # noqa: B023
    if "CUDA graph" not in name:
        for picture in list(PICTURES)[:1]:
            asked = asking(model, question(model.folder.path, picture))
            tiles = list(asked["pixel_values"][0])
            results.put(
                f"profile: {name}, image {picture}", failing(partial(_kernels, partial(model.engine.encode_images, tiles), 1))
            )
            first = partial(model.generate, **asked, max_new_tokens=1)
            results.put(f"profile: {name}, first token {picture}", failing(partial(_kernels, first, 1)))
            results.put(f"profile: {name}, host's part of {picture}", partial(_calls, first))


def _kernels(work: Callable[[], Any], times: int) -> dict[str, Any]:
    """Milliseconds of a repetition: the clock's, the GPU's, and of its dearest kernels with how often each runs."""
    work()
    work()
    seconds = 0.0

    def clocked() -> None:
        nonlocal seconds
        start = time.perf_counter()
        work()
        cuda_runtime._library().cudaDeviceSynchronize()
        seconds = time.perf_counter() - start

    events = traced(clocked)
    dear: Counter[str] = Counter()
    often: Counter[str] = Counter()
    gaps, until = [], 0.0
    for event in events:
        dear[event["name"]] += event["dur"]
        often[event["name"]] += 1
        gaps += [event["ts"] - until] if until and event["ts"] > until else []
        until = max(until, event["ts"] + event["dur"])
    waits = [gap for gap in gaps if gap > HOST_GAP]
    return {
        "clock": 1000 * seconds / times,
        "gpu": sum(dear.values()) / 1000 / times,
        "between kernels": (sum(gaps) - sum(waits)) / 1000 / times,
        "waiting for the host": sum(waits) / 1000 / times,
        "launches": sum(often.values()) / times,
        "kernels": [[name[:160], us / 1000 / times, often[name] / times] for name, us in dear.most_common(16)],
    }


def _calls(work: Callable[[], Any]) -> list[list[Any]]:
    """The dearest functions by their own milliseconds, with how often each is called."""
    work()
    profile = cProfile.Profile()
    profile.runcall(work)
    found = pstats.Stats(profile).stats.items()  # type: ignore[attr-defined]
    dear = sorted(((own, calls, name) for (_, _, name), (_, calls, own, *_) in found), reverse=True)
    return [[name, round(1000 * own, 2), calls] for own, calls, name in dear[:16]]
