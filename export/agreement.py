"""How often a folder's likeliest next token is that of a more precise model, and how far their distributions lie apart.

Both run from pictures and ids to logits, one layer in memory at a time, so that a comparison fits wherever the model does.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..graphs.contract import MANIFEST, Manifest, ModelSizes, key_value_names
from .calibration import CalibrationSet
from .compare import position_ids
from .compare_layers import Cut
from .errors import CheckpointError
from .source_model import SourceModel
from .streamed import streamed_reference
from .verify import read_manifest


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
        """Pictures [pictures, 3, side, side] → [pictures, latents, hidden]."""
        ...

    def logits(self, ids: Tensor, features: Tensor, rows: Tensor) -> Tensor:
        """Ids [seq], and for each the row of features [rows, hidden] that stands in its place or −1 → [seq, vocab]."""
        ...


@dataclass(frozen=True)
class LayeredFolder:
    """A model folder."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> LayeredFolder:
        return cls(folder, read_manifest(folder))

    @property
    def sizes(self) -> ModelSizes:
        return self.manifest.model

    def features(self, pixels: Tensor) -> Tensor:
        graph = Cut.open(self.folder, "vision")
        norms = graph.norms("vision_model.encoder.layers.{}.layer_norm1.weight")
        borders = [*(graph.input_of(name) for name in norms), graph.input_of("vision_model.post_layernorm.weight")]
        inputs = {"pixel_values": pixels, "position_ids": position_ids(pixels[0], self.manifest)}
        x = torch.from_numpy(graph.run(inputs, [borders[0]])[0])
        for border, following in itertools.pairwise([*borders, "image_features"]):
            x = torch.from_numpy(graph.run({**inputs, border: x}, [following])[0])
        return x

    def logits(self, ids: Tensor, features: Tensor, rows: Tensor) -> Tensor:
        sizes, count = self.manifest.model, len(ids)
        inputs = {"input_ids": ids[None], "image_features": features, "feature_rows": rows[None]}
        x = torch.from_numpy(Cut.open(self.folder, "embedding").run(inputs, ["inputs_embeds"])[0])
        graph = Cut.open(self.folder, "prompt" if "prompt" in self.manifest.graphs else "decoder")
        borders = [graph.input_of(name) for name in graph.norms("text_model.layers.{}.input_layernorm.weight")]
        empty = torch.zeros(1, sizes.num_key_value_heads, count, sizes.head_dim)
        call = {"inputs_embeds": x, "attention_mask": torch.ones(1, count, dtype=torch.int64)}
        call["logit_positions"] = torch.arange(count)[None]
        call |= dict.fromkeys(key_value_names(sizes.num_layers, "past_key_values"), empty)
        for border, following in itertools.pairwise([*borders, "logits"]):
            x = torch.from_numpy(graph.run({**call, border: x}, [following])[0])
        return x[0]


class LayeredCheckpoint:
    """A checkpoint under transformers, in fp32."""

    def __init__(self, source: SourceModel) -> None:
        self.sizes = source.sizes
        self._model = streamed_reference(source)

    def features(self, pixels: Tensor) -> Tensor:
        patch = self._model.config.vision_config.patch_size
        grid = torch.ones(len(pixels), pixels.shape[2] // patch, pixels.shape[3] // patch, dtype=torch.bool)
        seen = self._model.model.vision_model(pixel_values=pixels, patch_attention_mask=grid).last_hidden_state
        found: Tensor = self._model.model.connector(seen, attention_mask=grid.flatten(1))
        return found

    def logits(self, ids: Tensor, features: Tensor, rows: Tensor) -> Tensor:
        embeds = self._model.model.text_model.embed_tokens(ids)
        embeds[rows >= 0] = features[rows[rows >= 0]]
        hidden = self._model.model.text_model(inputs_embeds=embeds[None], use_cache=False).last_hidden_state
        found: Tensor = self._model.lm_head(hidden)[0]
        return found


def open_layered(source: str | Path) -> Layered:
    """A model folder, or a checkpoint's folder or hub id."""
    if (Path(source) / MANIFEST).is_file():
        return LayeredFolder.open(Path(source))
    return LayeredCheckpoint(SourceModel.open(source))


@torch.no_grad()
def agreement(folder: Path, precise: Layered) -> Agreement:
    """Compare a folder with a more precise model on built-in pictures and prompts."""
    ours = LayeredFolder.open(folder)
    sizes = ours.manifest.model
    if precise.sizes != sizes:
        raise CheckpointError(
            f"{folder} holds a model of other sizes than the one to compare it with. Name a folder of the same."
        )
    side = sizes.positions_per_side * sizes.patch_size
    shown = CalibrationSet.load(None, folder / "tokenizer.json", side, sizes.vocab_size)
    ids, rows = shown.sequence(sizes)
    found, expected = (model.logits(ids, model.features(shown.pixels).flatten(0, 1), rows) for model in (ours, precise))
    divergence = 0.0
    for ours_here, theirs_here in zip(found, expected, strict=True):  # position by position: vocabularies are large
        mine, right = ours_here.double().log_softmax(-1), theirs_here.double().log_softmax(-1)
        divergence += float((right.exp() * (right - mine)).sum())
    return Agreement(len(ids), int((found.argmax(-1) == expected.argmax(-1)).sum()), divergence / len(ids))
