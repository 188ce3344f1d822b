"""Time and peak memory of exporting a checkpoint, in a process of its own.

    python benchmarks/export_memory.py CHECKPOINT [--precision fp16] [--folder DIR]

Prints one JSON object. The folder is removed afterwards unless --folder names one to keep.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path


def export(checkpoint: str, folder: str, precision: str) -> dict[str, object]:
    """Export without verification; peak resident memory as the operating system counts it, mapped pages included."""
    start = time.perf_counter()
    from idefics2_onnx.export import export_model

    report = export_model(checkpoint, folder, precision, verify="never")  # type: ignore[arg-type]
    return {
        "precision": precision,
        "parameters": report.manifest.model.num_parameters,
        "folder_bytes": sum(entry.size for entry in report.manifest.files.values()),
        "seconds": round(time.perf_counter() - start, 1),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--precision", default="fp16", choices=["fp32", "fp16", "bf16"])
    parser.add_argument("--folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path(options.checkpoint).resolve().parent) as place:
        target = options.folder or f"{place}/model"
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            print(json.dumps(pool.submit(export, options.checkpoint, target, options.precision).result()))
