"""Peak memory of model folders: opened, and with one photo and a cache of 1,024 tokens.

    python benchmarks/memory.py int8=FOLDER "int8, openvino=FOLDER,openvino" … [--json FILE]

Each folder gets a process of its own, which answers with 64 tokens to a photo of 980×735 and as many tokens of text as fill the
cache. Peaks are resident memory as the operating system counts it, mapped files included.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

TOKENS, NEW = 1024, 64


def measure(folder: str, device: str) -> dict[str, float]:
    """Open and answer; bytes and seconds."""
    from idefics2_onnx import Idefics2

    start = time.perf_counter()
    model = Idefics2.from_pretrained(folder, device)
    found = {"folder": sum(entry.size for entry in model.folder.manifest.files.values()), "opening": time.perf_counter() - start}
    found["opened"] = peak()
    sizes, random = model.engine.sizes, np.random.default_rng(0)
    image = random.integers(0, 256, (735, 980, 3), dtype=np.uint8)
    pixels = model.processor.image_processor(image, do_image_splitting=False)["pixel_values"]
    tags = np.full(sizes.image_seq_len, sizes.image_token_id)
    ids = np.concatenate([[1], tags, random.integers(3, 200, TOKENS - NEW - 1 - len(tags))])[None]
    model.generate(input_ids=ids, pixel_values=pixels, max_new_tokens=NEW, eos_token_id=[])
    return {**found, "answered": peak()}


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", help="name=FOLDER or name=FOLDER,device")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = {}
    for given in options.folders:
        name, _, place = given.partition("=")
        folder, _, device = place.partition(",")
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            found = results[name] = pool.submit(measure, folder, device or "cpu").result()
        size, opened, answered = (found[what] / 1e9 for what in ("folder", "opened", "answered"))
        print(
            f"{name:24} folder {size:.2f} GB  opened {opened:.2f}  answered {answered:.2f} = {answered / size:.2f}×", flush=True
        )
        if options.json:
            options.json.write_text(json.dumps(results, indent=1) + "\n")
