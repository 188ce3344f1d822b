"""Opening time and peak memory of model folders: opened, and with one photo and a cache of 1,024 tokens.

    python benchmarks/memory.py int8=FOLDER "int8, openvino=FOLDER,openvino" … [--json FILE]

Each folder gets a process of its own, which reads its files, so that opening does not wait for the disk, opens it, and answers
with 64 tokens to a photo of 980×735 and as many tokens of text as fill the cache. Peaks are resident memory as the operating
system counts it, mapped files included. Right before, another process takes as much new memory as the folder has bytes and writes
to each of its pages: in a virtual machine whose host takes back what is unused, that alone can be most of an opening.
"""

from __future__ import annotations

import argparse
import json
import mmap
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from idefics2_onnx.runtime.model import Idefics2

TOKENS, NEW = 1024, 64


def touching(nbytes: int) -> float:
    """Seconds that so much new memory takes."""
    start = time.perf_counter()
    np.empty(nbytes, np.uint8)[:: mmap.PAGESIZE] = 1
    return time.perf_counter() - start


def answering(folder: str, device: str) -> dict[str, float]:
    """Open and answer; bytes and seconds."""
    for path in Path(folder).iterdir():
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 25):
                pass
    start = time.perf_counter()
    model = Idefics2.from_pretrained(folder, device)
    found = {"opening": time.perf_counter() - start, "opened": peak()}
    sizes, random = model.engine.sizes, np.random.default_rng(0)
    image = random.integers(0, 256, (735, 980, 3), dtype=np.uint8)
    pixels = model.processor.image_processor(image, do_image_splitting=False)["pixel_values"]
    tags = np.full(sizes.tokens_per_image, sizes.image_token_id)
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
    results: dict[str, dict[str, float]] = {}
    for given in options.folders:
        name, _, place = given.partition("=")
        folder, _, device = place.partition(",")
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
            found = {"folder": size, "touching": pool.submit(touching, size).result()}
            found |= pool.submit(answering, folder, device or "cpu").result()
        results[name] = found
        opens = f"opens in {found['opening']:.1f} s (new memory {found['touching']:.1f} s), to {found['opened'] / 1e9:.2f} GB"
        print(f"{name:24} {size / 1e9:.2f} GB  {opens}  answered {found['answered'] / size:.2f}×", flush=True)
        if options.json:
            options.json.write_text(json.dumps(results, indent=1) + "\n")
