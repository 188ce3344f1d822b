"""Everything that is compared between a folder and its checkpoint, in order."""

from __future__ import annotations

from pathlib import Path

from ...runtime.folder import read_manifest
from ..source.source_model import SourceModel
from .attributes import attribute_faults
from .difference import Difference, Verification
from .layers import compare_layers
from .weights import WeightsCheck
from .whole import compare_whole


def compare(folder: Path, source: SourceModel, whole: bool) -> Verification:
    """Weights and attributes exactly; numbers piece by piece, and of the whole graphs if there is the memory."""
    manifest = read_manifest(folder)
    checks = {graph: WeightsCheck.of(folder, manifest, source, graph) for graph in manifest.graphs}
    attributes = [fault for graph in manifest.graphs for fault in attribute_faults(folder, manifest, source, graph)]
    differences: list[Difference] = []
    if not any(check.misfits for check in checks.values()):
        differences += compare_layers(folder, manifest, source, checks=checks)
    weights = [fault for check in checks.values() for fault in check.faults()]
    faults = [fault for fault in (*weights, *attributes) if fault]
    equal = {"weights": weights.count(None), "attributes": attributes.count(None)}
    if any(weights):
        return Verification(equal=equal, faults=faults)
    if whole:
        differences += compare_whole(folder, manifest, source)
    return Verification(differences, equal, faults)
