"""A 4000×3000 JPEG, from the file to split, padded arrays: time beside transformers' Pillow processor, and peak memory of each.

    python benchmarks/image_processing.py [--pairs 15]

Times are medians of pairs run in turn in one process; memory is the peak of a process of its own, less the same process without
the call.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from skimage import data

OPTIONS: dict[str, Any] = {"do_image_splitting": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def write_photo(path: Path) -> None:
    """A photograph, enlarged, with sensor-like noise so that the JPEG is no easier to decode than a camera's."""
    large = np.asarray(Image.fromarray(data.astronaut()).resize((4000, 3000), Image.Resampling.BICUBIC)).astype(np.int16)
    noise = np.random.default_rng(0).integers(-8, 9, large.shape)
    Image.fromarray(np.clip(large + noise, 0, 255).astype(np.uint8)).save(path, quality=90)


def reference(path: str) -> Callable[[], dict[str, Any]]:
    from transformers.image_utils import load_image
    from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

    processor = Idefics2ImageProcessorPil(**OPTIONS)
    return lambda: dict(processor([[load_image(path)]], return_tensors="np"))


def ours(path: str) -> Callable[[], dict[str, Any]]:
    from idefics2_onnx import Idefics2ImageProcessor

    processor = Idefics2ImageProcessor(**OPTIONS)
    return lambda: processor([[path]])


def peak(build: Callable[[str], Callable[[], object]], path: str, call: bool) -> int:
    run = build(path)
    if call:
        run()
    # Not getrusage: its peak starts at that of the process this one was forked from.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def peak_of_call(build: Callable[[str], Callable[[], object]], path: str) -> int:
    """Bytes that one call adds to the peak, each measured in a fresh process."""
    peaks = []
    for call in (False, True):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            peaks.append(pool.submit(peak, build, path, call).result())
    return peaks[1] - peaks[0]


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main(pairs: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = f"{place}/photo.jpg"
        write_photo(Path(path))
        theirs, mine = reference(path), ours(path)
        expected, found = theirs(), mine()
        assert all(np.array_equal(found[name], array) for name, array in expected.items())
        times = [(seconds(theirs), seconds(mine)) for _ in range(pairs)]
        report = {
            "reference_ms": round(1e3 * statistics.median(t for t, _ in times), 1),
            "ours_ms": round(1e3 * statistics.median(m for _, m in times), 1),
            "ratio": round(statistics.median(m / t for t, m in times), 3),
            "pairs": pairs,
            "reference_peak_bytes": peak_of_call(reference, path),
            "ours_peak_bytes": peak_of_call(ours, path),
            "cores": multiprocessing.cpu_count(),
            "python": platform.python_version(),
        }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    main(parser.parse_args().pairs)
