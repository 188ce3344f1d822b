"""What a decode step costs outside the kernels: a model of one layer, 16 wide, whose kernels do next to nothing.

    python benchmarks/host_overhead.py [--steps 200]

A step is everything between two tokens: choosing, bookkeeping, two ONNX Runtime calls. All of it is one thread's work, whose
processor time is given, kernels included, so it is an upper bound of the host's share. Medians over all steps; rows and lengths
are taken in turn, seven rounds. IDEFICS has a gated layer besides, and each row an image that it looks at; how its steps stand to
Idefics2's, right before them, is good on a busy machine, too.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from idefics2_onnx import load
from idefics2_onnx.demo import random_idefics
from idefics2_onnx.demo.random_model import byte_tokenizer, write_checkpoint
from idefics2_onnx.export import export_model
from idefics2_onnx.runtime.generation.generator import Generator
from idefics2_onnx.runtime.sample import Sample
from idefics2_onnx.runtime.vision_language_model import VisionLanguageModel
from transformers import Idefics2Config

ROUNDS = 7
SHORT, LONG = 100, 4000


def tiny_idefics2(folder: Path, vocab_size: int) -> None:
    text = {
        "model_type": "mistral", "vocab_size": vocab_size, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": 8192, "sliding_window": None,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 98,
        "patch_size": 14,
    }  # fmt: skip
    perceiver = {
        "hidden_size": 16, "resampler_n_latents": 4, "resampler_depth": 1, "resampler_n_heads": 1, "resampler_head_dim": 16,
        "num_key_value_heads": 1,
    }  # fmt: skip
    config = Idefics2Config(
        image_token_id=byte_tokenizer().token_to_id("<image>"), text_config=text, vision_config=vision, perceiver_config=perceiver
    )
    write_checkpoint(folder, config)


def tiny_idefics(folder: Path, vocab_size: int) -> None:
    added, heads = 3, {"num_attention_heads": 1, "intermediate_size": 16}
    vision = {"embed_dim": 16, "num_hidden_layers": 1, **heads}
    perceiver = {"resampler_n_latents": 4, "resampler_depth": 1, "resampler_n_heads": 1, "resampler_head_dim": 16}
    config = random_idefics.tiny_config(
        vision, perceiver, vocab_size=vocab_size - added, additional_vocab_size=added, hidden_size=16, num_hidden_layers=1,
        cross_layer_interval=1, max_position_embeddings=8192, **heads,
    )  # fmt: skip
    random_idefics.write_checkpoint(folder, config)


def tiny_model(folder: Path, vocab_size: int, idefics: bool) -> VisionLanguageModel:
    (tiny_idefics if idefics else tiny_idefics2)(folder / "checkpoint", vocab_size)
    export_model(folder / "checkpoint", folder / "model", "fp32", verify="never")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # kernels this small only lose by sharing
    return load(folder / "model", session_options=options)


def prompt(model: VisionLanguageModel, ids: list[int]) -> Sample:
    """In IDEFICS with an image that all of its tokens see."""
    sizes = model.engine.sizes
    if not sizes.num_cross_layers:
        return Sample(ids)
    return Sample(ids, [np.zeros((sizes.image_seq_len, sizes.vision_width), np.float32)], seen=np.ones((len(ids), 1), np.int64))


def steps(model: VisionLanguageModel, rows: int, past: int, count: int, **options: Any) -> list[float]:
    """Microseconds of each step."""
    random = np.random.default_rng(0)
    samples = [prompt(model, random.integers(3, 250, past).tolist()) for _ in range(rows)]
    chosen = model.options.replace(max_new_tokens=count + 2, min_new_tokens=0, eos_token_id=[], **options)
    run = Generator(model, samples, chosen).steps()
    next(run)
    next(run)
    times = []
    for _ in range(count - 1):
        start = time.thread_time()
        next(run)
        times.append(1e6 * (time.thread_time() - start))
    run.close()
    return times


def allocated(model: VisionLanguageModel, rows: int, past: int, count: int) -> int:
    """Most bytes that any one step had allocated beyond what it found and kept."""
    samples = [prompt(model, [5] * past) for _ in range(rows)]
    run = Generator(model, samples, model.options.replace(max_new_tokens=count + 8, eos_token_id=[])).steps()
    for _ in range(4):
        next(run)
    tracemalloc.start()
    worst = 0
    for _ in range(count):
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        next(run)
        worst = max(worst, tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    run.close()
    return worst


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    count = parser.parse_args().steps
    found: dict[str, Any] = {"machine": platform.processor() or platform.machine(), "onnxruntime": ort.__version__}
    with tempfile.TemporaryDirectory() as folder:
        small, real = (tiny_model(Path(folder) / str(size), size, False) for size in (262, 32003))
        older = tiny_model(Path(folder) / "idefics", 262, True)
        cases = {
            "1 row": (small, 1, SHORT, {}),
            "1 row, IDEFICS": (older, 1, SHORT, {}),
            "8 rows": (small, 8, SHORT, {}),
            "32 rows": (small, 32, SHORT, {}),
            "32 rows, IDEFICS": (older, 32, SHORT, {}),
            f"1 row, {LONG} past": (small, 1, LONG, {}),
            "1 row, vocabulary 32003": (real, 1, SHORT, {}),
            "8 rows, vocabulary 32003": (real, 8, SHORT, {}),
            "1 row, vocabulary 32003, sampled": (real, 1, SHORT, {"do_sample": True, "top_p": 0.9}),
            "1 row, vocabulary 32003, stop strings": (real, 1, SHORT, {"stop_strings": ["never said"]}),
        }
        times: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(ROUNDS):
            for name, (model, rows, past, options) in cases.items():
                times[name] += steps(model, rows, past, count, **options)
        medians = {name: round(statistics.median(values), 1) for name, values in times.items()}
        found |= {"microseconds per step": medians, "per extra row": round((medians["32 rows"] - medians["1 row"]) / 31, 2)}
        found["IDEFICS over Idefics2"] = {
            name: round(statistics.median(np.divide(times[f"{name}, IDEFICS"], times[name])), 2) for name in ("1 row", "32 rows")
        }
        found["bytes allocated in a step"] = {
            f"{rows} rows, {past} past": allocated(real, rows, past, 40) for rows, past in ((1, SHORT), (8, SHORT), (1, LONG))
        }
        found["logits of one row, bytes"] = 32003 * 4
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
