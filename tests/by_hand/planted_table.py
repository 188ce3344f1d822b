"""Which planted faults a comparison finds, precision by precision: by numbers alone, exactly, or not at all.

PYTHONPATH=tests/support python tests/by_hand/planted_table.py [precision ...]
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from idefics2_onnx.demo.random_model import write_checkpoint
from idefics2_onnx.export import Quantisation, export_model
from idefics2_onnx.export.source.source_model import SourceModel
from idefics2_onnx.export.verification.attributes import attribute_faults
from idefics2_onnx.export.verification.layers import compare_layers
from idefics2_onnx.export.verification.weights import WeightsCheck
from idefics2_onnx.export.verification.whole import compare_whole
from idefics2_onnx.runtime.folder import read_manifest
from planted_faults import FAULTS, planted
from small_models import SMALL_MODELS

PRECISIONS = {
    "fp32": ("fp32", None), "fp32 standard": ("fp32", "standard"), "fp16": ("fp16", None), "bf16": ("bf16", None),
    "int8": (Quantisation("int8"), None), "int4": (Quantisation("int4", smallest=True), None),
    "int4 for cuda": (Quantisation("int4", "cuda"), None),
}  # fmt: skip


def found(folder: Path, checkpoint: Path, whole: bool = True) -> tuple[list[str], list[str]]:
    """What the numbers alone and what the exact comparisons say against a folder."""
    manifest, source = read_manifest(folder), SourceModel.open(checkpoint)
    differences = list(compare_layers(folder, manifest, source))
    if whole:
        differences += compare_whole(folder, manifest, source)
    exact = [f for g in manifest.graphs for f in WeightsCheck.of(folder, manifest, source, g).faults()]
    exact += [f for g in manifest.graphs for f in attribute_faults(folder, manifest, source, g)]
    return [str(d) for d in differences if not d.passed], [fault for fault in exact if fault]


def main(names: list[str]) -> None:
    small = SMALL_MODELS["window"]
    print("| fault |", " | ".join(names), "|\n|" + "---|" * (len(names) + 1), flush=True)
    with tempfile.TemporaryDirectory() as place:
        checkpoint = Path(place) / "checkpoint"
        write_checkpoint(checkpoint, small.config, image_options=small.image_options)
        folders = {}
        for name in names:
            precision, attention = PRECISIONS[name]
            folders[name] = export_model(checkpoint, Path(place) / name, precision, attention=attention, verify="never").folder
        for fault in ("none", *FAULTS):
            cells = []
            for folder in folders.values():
                spoilt = Path(place) / "spoilt"
                numbers, exact = found(folder if fault == "none" else planted(folder, fault, spoilt), checkpoint)
                shutil.rmtree(spoilt, ignore_errors=True)
                cells.append(" + ".join([*["numbers"] * bool(numbers), *["exact"] * bool(exact)]) or "–")
            print(f"| {fault} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(PRECISIONS))
