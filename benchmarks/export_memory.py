"""Time and peak memory of exporting a checkpoint, in a process of its own.

    python benchmarks/export_memory.py CHECKPOINT [--precision fp16] [--fast-prompts | --smallest] [--verify auto] [--folder DIR]

Prints one JSON object; "copying" is what plain file copies of the checkpoint's reading and the folder's writing take on the same
disk, right afterwards. --verify auto is the command as typed; "never", the default here, does without. The
folder is removed afterwards unless --folder names one to keep.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import resource
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import psutil


class Watched:
    """The largest of this process's own processes: the system counts what they share with their parent as they start."""

    def __init__(self) -> None:
        self.peak = 0

    def watch(self) -> None:
        while True:
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    self.peak = max(self.peak, process.memory_info().rss)
            time.sleep(0.02)


def export(checkpoint: str, folder: str, precision: str, kind: str, verify: str) -> dict[str, object]:
    """Export; peak resident memory as the operating system counts it, mapped pages included."""
    start = time.perf_counter()
    from idefics2_onnx.export import Listener, Quantisation, export_model

    watched = Watched()
    threading.Thread(target=watched.watch, daemon=True).start()
    said: list[str] = []
    listener = Listener()
    listener.say = said.append  # type: ignore[method-assign]
    plan = Quantisation("int4", fast_prompts=kind == "fast prompts", smallest=kind == "smallest") if kind else precision
    report = export_model(checkpoint, folder, plan, verify=verify, listener=listener)  # type: ignore[arg-type]
    return {
        "precision": f"int4, {kind}" if kind else precision,
        "parameters": report.manifest.model.num_parameters,
        "folder_bytes": sum(entry.size for entry in report.manifest.files.values()),
        "seconds": round(time.perf_counter() - start, 1),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "verify": verify,
        "peak_rss_bytes_of_its_processes": watched.peak,
        "said": said,
    }


def copying(checkpoint: Path, folder: Path) -> float:
    """Seconds to read the checkpoint's weights and to write the folder's again."""
    start = time.perf_counter()
    for path in checkpoint.glob("*.safetensors"):
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 25):
                pass
    for path in folder.iterdir():
        copy = folder / f"{path.name}.copy"
        with path.open("rb", buffering=0) as source, copy.open("wb", buffering=0) as target:
            while block := source.read(1 << 25):
                target.write(block)
        copy.unlink()
    return time.perf_counter() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--precision", default="fp16", choices=["fp32", "fp16", "bf16", "int8", "int4"])
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--fast-prompts", dest="kind", action="store_const", const="fast prompts", default="")
    kinds.add_argument("--smallest", dest="kind", action="store_const", const="smallest")
    parser.add_argument("--verify", default="never", choices=["auto", "always", "never"])
    parser.add_argument("--folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path(options.checkpoint).resolve().parent) as place:
        target = options.folder or f"{place}/model"
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            found = pool.submit(export, options.checkpoint, target, options.precision, options.kind, options.verify).result()
        found["copying"] = round(copying(Path(options.checkpoint), Path(target)), 1)
        print(json.dumps(found))
