"""What each way of quantising a checkpoint costs in size and accuracy, layer by layer and as a whole.

    python benchmarks/quantisation.py CHECKPOINT [--json FILE] [--only NAME …]

For each way: the folder's size, the relative error of every layer's output when it reads what the reference's layer reads, and
the agreement of next tokens with the reference. With random weights (`make_checkpoint.py`) only comparisons between ways mean
something; `idefics2_onnx.demo.evaluate` counts right answers of a trained model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from idefics2_onnx.export import Quantisation, agreement, export_model, open_layered
from idefics2_onnx.export.source.source_model import SourceModel
from idefics2_onnx.export.verification.layers import compare_layers

WAYS: dict[str, Any] = {
    "fp16": "fp16",
    "int8": Quantisation("int8"),
    "int4": Quantisation("int4"),
    "int4, asymmetric": Quantisation("int4", symmetric=False),
    "int4, groups of 32": Quantisation("int4", group=32),
    "int4, smallest": Quantisation("int4", smallest=True),
}


def measure(checkpoint: str, way: Any, folder: Path) -> dict[str, Any]:
    """Export, compare, and say what came out."""
    report = export_model(checkpoint, folder, way, verify="never")
    errors: dict[str, dict[str, float]] = {}
    for difference in compare_layers(folder, report.manifest, SourceModel.open(checkpoint), unrounded=True):
        errors.setdefault(difference.graph, {})[difference.what] = difference.ours.relative
    found = agreement(folder, open_layered(checkpoint))
    return {
        "bytes": sum(entry.size for entry in report.manifest.files.values()),
        "errors": errors,
        "positions": found.positions,
        "same": found.same,
        "divergence": found.divergence,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS), help="The file keeps the others.")
    options = parser.parse_args()
    again = options.json and options.json.exists() and options.only != list(WAYS)
    results = json.loads(options.json.read_text()) if again else {}
    for way in options.only:
        with tempfile.TemporaryDirectory(dir=Path(options.checkpoint).resolve().parent) as place:
            found = results[way] = measure(options.checkpoint, WAYS[way], Path(place) / "model")
        layers = "  ".join(
            f"{graph} {statistics.median(errors.values()):.4f} (worst {max(errors.values()):.4f})"
            for graph, errors in found["errors"].items()
        )
        share = f"{100 * found['same'] / found['positions']:.1f} % of tokens agree, KL {found['divergence']:.2g}"
        print(f"{way:24} {found['bytes'] / 1e9:6.2f} GB  {layers}  {share}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(results, indent=1) + "\n")
