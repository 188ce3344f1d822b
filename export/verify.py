"""Compare an exported folder with the reference, in a process of its own so that the memory comes back.

python -m idefics2_onnx.export.verify FOLDER CHECKPOINT whole|layers [ADAPTER]
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from ..graphs.contract import GRAPHS, MANIFEST, GraphName, Manifest, Precision, data_file
from .errors import CheckpointError, ParityError
from .source_model import SourceModel

ABSOLUTE_FLOOR = 1e-5
"""fp32, and bf16 compared in fp32 on rounded weights: largest difference, times the reference's std where that is above 1."""
FLOOR_LAYERS = 8
"""Decoder layers that ABSOLUTE_FLOOR covers; rounding adds up like a random walk, so deeper ones get √(layers ÷ this) of it.

Random weights, 32 layers 1,024 wide: 8.5e-6 at logits of standard deviation 1; 4 layers 4,096 wide: 6.1e-6.
"""
RELATIVE_FLOOR = 1e-2
"""fp16: L2 norm of the difference over that of the reference."""
QUANTISED_FLOORS: dict[Precision, float] = {"int8": 0.2, "int4": 0.7}
"""The same for rounded weights: enough to find a graph that is wrong. How good they are, `demo.evaluate` says."""
CLEAR_MARGIN = 0.05
"""fp16: the likeliest token must agree wherever the reference's first two logits lie further apart than this."""


@dataclass(frozen=True)
class Difference:
    """One output of a graph against the reference's."""

    graph: GraphName
    what: str
    """Which output, of which input or layer."""
    largest: float
    relative: float
    """L2 norm of the difference over that of the reference."""
    floor: float
    passed: bool
    wrong_tokens: int | None = None
    """Positions where another token is the likeliest though the reference is clear about it; None for other outputs."""

    @classmethod
    def between(
        cls,
        graph: GraphName,
        what: str,
        actual: NDArray[np.float32],
        expected: NDArray[np.float32],
        precision: Precision,
        layers: int = 1,
    ) -> Difference:
        """Compare arrays of one shape that `layers` layers made; logits [positions, vocab] by their likeliest tokens, too."""
        difference = actual.astype(np.float64) - expected
        largest = float(np.abs(difference).max())
        relative = float(np.linalg.norm(difference) / max(float(np.linalg.norm(expected.astype(np.float64))), 1e-30))
        wrong = None
        if what.startswith("logits"):
            second, first = np.moveaxis(np.partition(expected, -2, axis=-1)[..., -2:], -1, 0)
            wrong = int(((actual.argmax(-1) != expected.argmax(-1)) & (first - second > CLEAR_MARGIN)).sum())
        if precision in QUANTISED_FLOORS:
            floor, wrong = QUANTISED_FLOORS[precision], None
            passed = relative <= floor
        elif precision == "fp16":
            floor, passed = RELATIVE_FLOOR, relative <= RELATIVE_FLOOR
        else:
            floor = ABSOLUTE_FLOOR * max(1.0, float(expected.std())) * max(1.0, layers / FLOOR_LAYERS) ** 0.5
            passed = largest <= floor
        # NaN fails both comparisons.
        return cls(graph, what, largest, relative, floor, passed and not wrong, wrong)

    def __str__(self) -> str:
        tokens = "" if self.wrong_tokens is None else f", {self.wrong_tokens} clear tokens differ"
        return f"{self.graph} ({self.what}): largest difference {self.largest:.1e}, relative {self.relative:.1e}{tokens}"


@dataclass(frozen=True)
class Verification:
    """What was compared, and what could not be run here."""

    differences: list[Difference] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The largest difference of each graph, and what was not run."""
        worst = {graph: [d for d in self.differences if d.graph == graph] for graph in (*GRAPHS, "prompt")}
        found = [max(differences, key=lambda d: (not d.passed, d.largest)) for differences in worst.values() if differences]
        return [*map(str, found), *(f"not run: {what}" for what in self.not_run)]

    def raise_past_floor(self) -> None:
        for difference in self.differences:
            if not difference.passed:
                raise ParityError(
                    f"The graphs differ from the reference by more than {difference.floor:.1e}: {difference}. "
                    "If this is the folder's own checkpoint, please report it with the checkpoint's name and config.json."
                )


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder that the exporter has just written or that a user names."""
    return Manifest.from_dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))


def verify_folder(
    folder: str | Path, source: str | Path, whole: bool | None = None, adapter: str | Path | None = None
) -> Verification:
    """Compare a model folder with its checkpoint, a folder or hub id. Raises CheckpointError if they cannot be compared."""
    model = SourceModel.open(source, adapter=Path(adapter) if adapter is not None else None)
    manifest = read_manifest(Path(folder))
    if model.sizes != manifest.model:
        raise CheckpointError(
            f"{folder} was made from {manifest.source}, and {source} is a model of other sizes. Name its checkpoint."
        )
    return verify_in_subprocess(Path(folder), model.checkpoint.folder, whole, adapter)


def memory_needed(manifest: Manifest) -> int:
    """Bytes for a whole comparison: the reference in fp32 beside the graphs, which ONNX Runtime widens to fp32 on CPU."""
    widened = sum(manifest.files[data_file(graph)].size * (1 if manifest.dtype == "fp32" else 3) for graph in manifest.graphs)
    return 4 * manifest.model.num_parameters + widened + (1 << 30)


def verify_in_subprocess(
    folder: Path, checkpoint: Path, whole: bool | None = None, adapter: str | Path | None = None
) -> Verification:
    """Compare `folder` with `checkpoint`: as a whole, layer by layer, or (None) as the free memory allows."""
    needed, free = memory_needed(read_manifest(folder)), psutil.virtual_memory().available
    layers = not whole if whole is not None else needed > free
    package = __name__.removesuffix(".verify")
    # -P: a file in the current folder, maybe the checkpoint's, must not be imported.
    command = [sys.executable, "-P", "-m", f"{package}.verify", str(folder), str(checkpoint), "layers" if layers else "whole"]
    command += [] if adapter is None else [str(adapter)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        reason = (run.stderr.strip() or f"exit status {run.returncode}").splitlines()[-1]
        raise CheckpointError(
            f"The model folder could not be compared with the reference ({reason}). "
            "`export --verify never` keeps a folder uncompared."
        )
    found = json.loads(run.stdout.splitlines()[-1])
    not_run = list(found["not_run"])
    if layers:
        not_run.append(f"the graphs as a whole, which take {needed / 1e9:.1f} GB of memory where {free / 1e9:.1f} GB are free")
    return Verification([Difference(**difference) for difference in found["differences"]], not_run)


def main(folder: str, checkpoint: str, how: str, adapter: str | None = None) -> None:
    if how == "whole":
        from .compare import compare_whole as compare
    else:
        from .compare_layers import compare_layers as compare
    model = SourceModel.open(checkpoint, adapter=Path(adapter) if adapter else None)
    print(json.dumps(asdict(compare(Path(folder), model))))  # noqa: T201  for the parent process


if __name__ == "__main__":
    main(*sys.argv[1:])
