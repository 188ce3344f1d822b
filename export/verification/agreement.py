"""How often a folder's likeliest next token is that of a more precise model, and how far their distributions lie apart.

Both run from pictures and ids to logits, one layer in memory at a time, so that a comparison fits wherever the model does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ...graphs.contract import MANIFEST, GraphName, Manifest, ModelSizes
from ...runtime.folder import ModelFolder, read_manifest
from ..errors import CheckpointError
from ..models.known import FAMILIES
from ..quantisation.calibration import CalibrationSet
from ..source.source_model import SourceModel
from ..source.streamed import streamed_reference
from .known import COMPARISONS


@dataclass(frozen=True)
class Agreement:
    """Over the positions of one long prompt of texts and pictures."""

    positions: int
    same: int
    """Where the likeliest next token is the same."""
    divergence: float
    """Mean Kullback–Leibler divergence from the more precise model, in nats."""

    def __str__(self) -> str:
        share = 100 * self.same / self.positions
        return f"next tokens: {self.same} of {self.positions} agree ({share:.1f} %), mean KL {self.divergence:.2g} nats"


class Layered(Protocol):
    """A model that runs layer by layer."""

    @property
    def sizes(self) -> ModelSizes: ...

    def features(self, pixels: Tensor) -> Tensor:
        """Pictures [pictures, 3, side, side] → [pictures, image_seq_len, width]."""
        ...

    def logits(self, ids: Tensor, features: Tensor, places: Tensor) -> Tensor:
        """Ids [seq], pictures' features, and for each id what of them it is or sees (`Family.places`) → [seq, vocab]."""
        ...


@dataclass(frozen=True)
class LayeredFolder:
    """A model folder."""

    folder: Path
    manifest: Manifest
    reader: GraphName = "decoder"
    """What reads the prompt: the graph that writes answers, or the one for prompts."""

    @classmethod
    def open(cls, folder: Path, reader: GraphName = "decoder") -> LayeredFolder:
        return cls(folder, read_manifest(folder), reader)

    @property
    def sizes(self) -> ModelSizes:
        return self.manifest.model

    def features(self, pixels: Tensor) -> Tensor:
        return COMPARISONS[self.manifest.architecture].features(self.folder, self.manifest, pixels)

    def logits(self, ids: Tensor, features: Tensor, places: Tensor) -> Tensor:
        return COMPARISONS[self.manifest.architecture].logits(self.folder, self.reader, self.manifest, ids, features, places)


class LayeredCheckpoint:
    """A checkpoint under transformers, in fp32."""

    def __init__(self, source: SourceModel) -> None:
        self.sizes, self.source, self._family = source.sizes, source.checkpoint.source, source.family
        self._model = streamed_reference(source)

    def features(self, pixels: Tensor) -> Tensor:
        return self._family.image_features(self._model, pixels)

    def logits(self, ids: Tensor, features: Tensor, places: Tensor) -> Tensor:
        found: Tensor = self._model.lm_head(self._family.hidden_states(self._model, ids, features, places))
        return found


def open_layered(source: str | Path, adapter: Path | None = None) -> Layered:
    """A model folder, or a checkpoint's folder or hub id with an adapter or without.

    Raises:
        CheckpointError, ModelFolderError: it cannot be read.
    """
    if (Path(source) / MANIFEST).is_file():
        if adapter is not None:
            raise CheckpointError(f"{source} is a model folder, which takes no adapter. Name the checkpoint it was made from.")
        return LayeredFolder.open(ModelFolder.open(source).path)
    return LayeredCheckpoint(SourceModel.open(source, adapter=adapter))


@torch.no_grad()
def agreement(folder: Path, precise: Layered, reader: GraphName = "decoder") -> Agreement:
    """Compare a folder with a more precise model on built-in pictures and prompts; `reader` is "prompt" or "decoder"."""
    ours = LayeredFolder.open(folder, reader)
    sizes = ours.manifest.model
    if precise.sizes != sizes:
        raise CheckpointError(
            f"{folder} holds a model of other sizes than the one to compare it with. Name a folder of the same."
        )
    shown = CalibrationSet.load(None, folder / "tokenizer.json", sizes)
    ids, places = shown.sequence(FAMILIES[ours.manifest.architecture], sizes)
    found, expected = (model.logits(ids, model.features(shown.pixels), places) for model in (ours, precise))
    divergence = 0.0
    for ours_here, theirs_here in zip(found, expected, strict=True):  # position by position: vocabularies are large
        mine, right = ours_here.double().log_softmax(-1), theirs_here.double().log_softmax(-1)
        divergence += float((right.exp() * (right - mine)).sum())
    return Agreement(len(ids), int((found.argmax(-1) == expected.argmax(-1)).sum()), divergence / len(ids))
