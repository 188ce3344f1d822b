"""Right answers of the demo's checkpoint exported to every precision, and those unlike fp32's.

python benchmarks/quality.py CHECKPOINT [--cases 500] [--json FILE] [--only NAME …]
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from idefics2_onnx.demo.evaluate import score
from idefics2_onnx.demo.tasks import TASKS
from idefics2_onnx.export import Quantisation, export_model
from idefics2_onnx.runtime.model import Idefics2
from safetensors.torch import load_file, save_file

BF16 = "bf16 weights in fp32 graphs"
PRECISIONS: dict[str, Any] = {
    "fp32": "fp32",
    "fp16": "fp16",
    BF16: "fp32",
    "int8": "int8",
    "int4": "int4",
    "int4, asymmetric": Quantisation("int4", symmetric=False),
    "int4, groups of 32": Quantisation("int4", group=32),
    "int4, smallest": Quantisation("int4", smallest=True),
    "int4, fast prompts": Quantisation("int4", fast_prompts=True),
}


def rounded(checkpoint: Path, folder: Path) -> Path:
    """A copy whose weights are bfloat16: ONNX Runtime has no kernels for it on CPUs."""
    shutil.copytree(checkpoint, folder)
    for path in folder.glob("*.safetensors"):
        weights = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(path).items()}
        save_file(weights, path, {"format": "pt"})
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--cases", type=int, default=500, help="Per task.")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", nargs="+", choices=PRECISIONS, default=list(PRECISIONS), help="The file keeps the others.")
    options = parser.parse_args()
    again = options.json and options.json.exists() and options.only != list(PRECISIONS)
    results: dict[str, dict[str, Any]] = json.loads(options.json.read_text()) if again else {}
    with tempfile.TemporaryDirectory() as place:
        reference = None
        for number, (name, precision) in enumerate(PRECISIONS.items()):
            if name not in ("fp32", *options.only):
                continue
            source = rounded(options.checkpoint, Path(place) / "rounded") if name == BF16 else options.checkpoint
            report = export_model(source, Path(place) / str(number), precision, verify="never")
            model = Idefics2.from_pretrained(report.folder, "cpu")
            scores = [score(model, task, range(options.cases), reference) for task in TASKS]
            reference = reference or model
            right, cases, differ = (sum(getattr(s, what) or 0 for s in scores) for what in ("right", "cases", "differ"))
            size = sum(entry.size for entry in report.manifest.files.values())
            results[name] = {"bytes": size, "tasks": [asdict(found) for found in scores]}
            print(f"{name:28} {size / 1e6:5.1f} MB {100 * right / cases:6.2f} % right, {differ} of {cases} differ", flush=True)
            if options.json:
                options.json.write_text(json.dumps(results, indent=1) + "\n")
