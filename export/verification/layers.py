"""The comparison piece by piece: every layer's attention and products, each given the reference's own input.

A difference shows in the piece that makes it, undiluted by what comes before and after, and the weights of one piece are all
that is held: no more than three matrices of a decoder's layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from ...graphs.contract import GraphName, Manifest
from ..source.source_model import SourceModel
from .difference import Difference
from .example import Example
from .known import COMPARISONS
from .reference import Reference, decoders_of
from .weights import WeightsCheck


@torch.no_grad()
def compare_layers(
    folder: Path,
    manifest: Manifest,
    source: SourceModel,
    unrounded: bool = False,
    checks: Mapping[GraphName, WeightsCheck] | None = None,
) -> Iterator[Difference]:
    """Every piece of every graph.

    Args:
        unrounded: beside the checkpoint's numbers instead of a folder's integers.
        checks: of the graphs' weights, for those that are held here beside the checkpoint's.
    """
    own = COMPARISONS[manifest.architecture]
    example = Example.for_model(manifest)
    reference = Reference.of(folder, manifest, source, unrounded=unrounded, checks=checks)
    yield from own.pieces_of_inputs(folder, manifest, reference, example)
    for name in decoders_of(manifest):
        if name == "prompt":
            reference = Reference.of(folder, manifest, source, name, unrounded, checks)
        yield from own.pieces_of_decoder(folder, name, manifest, reference, example)
