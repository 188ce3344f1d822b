"""What is exported: a model whose parameters are tensors of a checkpoint, maybe unpacked or merged as they are read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...graphs.contract import ModelSizes
from ..errors import CheckpointError
from ..models.family import Block, Family, Rows, Shapes
from ..models.known import family_of
from .adapter import merge_adapter
from .architecture import load_config, match_tensors, model_sizes
from .awq import stacked, unpack_awq
from .base_model import open_with_adapter
from .checkpoint import Checkpoint, Part, Stack, Stored


@dataclass(frozen=True)
class SourceModel:
    """A checkpoint with its tensors as the model's parameters."""

    checkpoint: Checkpoint
    config: Any
    """transformers' own of the family."""
    sizes: ModelSizes
    shapes: Shapes
    names: dict[str, str]
    """The model's parameters → the checkpoint's tensors."""
    adapter: Path | None = None
    """Folder of the adapter that is merged into the checkpoint."""
    remark: str | None = None
    """A line for the user where the checkpoint or its adapter was found rather than named."""

    @classmethod
    def open(cls, source: str | Path, revision: str | None = None, adapter: Path | None = None) -> SourceModel:
        """A folder or hub id, unpacked if AWQ has quantised it, and merged with a LoRA adapter if one is given.

        The folder or hub id may also be an adapter's, which names its base model.
        """
        checkpoint, tuning, remark = open_with_adapter(source, revision, adapter)
        config = load_config(checkpoint)
        text = getattr(config, "text_config", None)
        quantised = getattr(config, "quantization_config", None) or getattr(text, "quantization_config", None)
        if quantised:
            checkpoint = unpack_awq(checkpoint, quantised)
        sizes, shapes, tied = model_sizes(config)
        names = match_tensors(checkpoint, shapes, tied)
        if tuning is not None:
            checkpoint, names = merge_adapter(checkpoint, names, tuning, family_of(config).tables)
            if _fit_tables(config, checkpoint, names, tied):
                sizes, shapes, tied = model_sizes(config)
        names = names | {name: name for name in family_of(config).made_of(shapes, sizes)}
        folder = tuning.folder if tuning is not None else None
        return cls(checkpoint, config, sizes, shapes, names, folder, remark).with_tensors({})

    @property
    def family(self) -> Family:
        return family_of(self.config)

    def stored(self, parameter: str) -> Stored:
        return self.checkpoint.tensors[self.names[parameter]]

    def with_tensors(self, changed: dict[str, Stored]) -> SourceModel:
        """The model with other tensors in the place of some, by their names in the checkpoint, and with what the graphs make of
        them.
        """
        tensors = self.checkpoint.tensors | changed

        def made(what: Rows | Block) -> Stored:
            if isinstance(what, Block):
                return Part(tensors[self.names[what.parameter]], what.rows, what.columns)
            parts = tuple(tensors[self.names[part]] for part in what.parts)
            if sum(part.shape[0] for part in parts) < what.count:
                return Stack(parts, what.count)
            return parts[0] if len(parts) == 1 else stacked(parts) or Stack(parts, what.count)

        own = {name: made(what) for name, what in self.family.made_of(self.shapes, self.sizes).items()}
        return replace(self, checkpoint=replace(self.checkpoint, tensors=tensors | own))


def _fit_tables(config: Any, checkpoint: Checkpoint, names: dict[str, str], tied: dict[str, str]) -> bool:
    """Give the config the vocabulary and the ties that an adapter leaves its model with; says whether they are others."""
    family = family_of(config)
    rows = {name: checkpoint.tensors[names[name]].shape[0] for name in family.tables}
    if len(set(rows.values())) > 1:
        raise CheckpointError(
            f"{checkpoint.source} has {' and '.join(f'{count} rows in {name}' for name, count in rows.items())}. "
            "Save the adapter again with both tables: save_embedding_layers=True."
        )
    before = config.to_dict()
    family.fit_vocabulary(config, rows[family.tables[0]], checkpoint.source)
    if any(checkpoint.tensors[names[name]] != checkpoint.tensors[names[other]] for name, other in tied.items()):
        config.tie_word_embeddings = False
    return bool(before != config.to_dict())
