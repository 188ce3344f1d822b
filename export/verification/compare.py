"""Everything that is compared between a folder and its checkpoint, in order."""

from __future__ import annotations

from pathlib import Path

from ...runtime.folder import read_manifest
from ..source.source_model import SourceModel
from .attributes import attribute_faults
from .difference import Verification
from .layers import compare_layers
from .weights import WeightsCheck
from .whole import compare_whole


def compare(folder: Path, source: SourceModel, whole: bool) -> Verification:
    """Weights and attributes exactly; numbers piece by piece, and of the whole graphs if there is the memory."""
    manifest = read_manifest(folder)
    checks: dict[str, list[str | None]] = {"weights": [], "attributes": []}
    for graph in manifest.graphs:
        checks["weights"] += WeightsCheck.of(folder, manifest, source, graph).faults()
        checks["attributes"] += attribute_faults(folder, manifest, source, graph)
    faults = [fault for found in checks.values() for fault in found if fault]
    equal = {what: found.count(None) for what, found in checks.items()}
    if any("weight" in fault for fault in faults):
        return Verification(equal=equal, faults=faults)
    differences = [*compare_layers(folder, manifest, source)]
    if whole:
        differences += compare_whole(folder, manifest, source)
    return Verification(differences, equal, faults)
