"""What is exported: an Idefics2 whose parameters are tensors of a checkpoint, maybe unpacked or merged as they are read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from transformers import Idefics2Config

from ...graphs.contract import ModelSizes
from ...graphs.head import padded_outputs
from ...graphs.idefics2.vision import projection_blocks
from ..errors import CheckpointError
from .adapter import TABLES, merge_adapter
from .architecture import load_config, match_tensors, model_sizes
from .awq import unpack_awq
from .base_model import open_with_adapter
from .checkpoint import Checkpoint, Part, Stack, Stored

PROJECTION = "model.connector.modality_projection"
HEAD = "lm_head"
JOINED = "qkv"
"""What the joined projection of a decoder's layer is made of: the projections of these letters."""


@dataclass(frozen=True)
class SourceModel:
    """A checkpoint that is an Idefics2, with its tensors as the model's parameters."""

    checkpoint: Checkpoint
    config: Idefics2Config
    sizes: ModelSizes
    shapes: dict[str, tuple[int, ...]]
    """The shape of each parameter."""
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
        quantised = getattr(config, "quantization_config", None) or getattr(config.text_config, "quantization_config", None)
        if quantised:
            checkpoint = unpack_awq(checkpoint, quantised)
        sizes, shapes, tied = model_sizes(config)
        names = match_tensors(checkpoint, shapes, tied)
        if tuning is not None:
            checkpoint, names = merge_adapter(checkpoint, names, tuning)
            if _fit_tables(config, checkpoint, names, tied):
                sizes, shapes, tied = model_sizes(config)
        tensors = _projection_blocks(checkpoint, names) | _stacks(checkpoint, names, sizes)
        checkpoint = replace(checkpoint, tensors=checkpoint.tensors | tensors)
        names = names | {name: name for name in tensors}
        folder = tuning.folder if tuning is not None else None
        return cls(checkpoint, config, sizes, shapes, names, folder, remark)

    def stored(self, parameter: str) -> Stored:
        return self.checkpoint.tensors[self.names[parameter]]


def _fit_tables(config: Idefics2Config, checkpoint: Checkpoint, names: dict[str, str], tied: dict[str, str]) -> bool:
    """Give the config the vocabulary and the ties that an adapter leaves its model with; says whether they are others."""
    rows = {name: checkpoint.tensors[names[name]].shape[0] for name in TABLES}
    if len(set(rows.values())) > 1:
        raise CheckpointError(
            f"{checkpoint.source} has {' and '.join(f'{count} rows in {name}' for name, count in rows.items())}. "
            "Save the adapter again with both tables: save_embedding_layers=True."
        )
    before = config.text_config.vocab_size, config.tie_word_embeddings
    config.text_config.vocab_size = rows[TABLES[0]]
    if any(checkpoint.tensors[names[name]] != checkpoint.tensors[names[other]] for name, other in tied.items()):
        config.tie_word_embeddings = False
    return before != (config.text_config.vocab_size, config.tie_word_embeddings)


def _projection_blocks(checkpoint: Checkpoint, names: dict[str, str]) -> dict[str, Stored]:
    """The blocks that the vision graph makes of the connector's projection, as parameters of their own."""
    gate, up, down = (checkpoint.tensors[names[f"{PROJECTION}.{kind}_proj.weight"]] for kind in ("gate", "up", "down"))
    inputs, outputs = range(gate.shape[1]), range(down.shape[0])
    found: dict[str, Stored] = {}
    for index, block in enumerate(projection_blocks(gate.shape[0])):
        parts = {"gate": Part(gate, block, inputs), "up": Part(up, block, inputs), "down": Part(down, outputs, block)}
        found |= {f"{PROJECTION}.blocks.{index}.{kind}_proj.weight": part for kind, part in parts.items()}
    return found


def _stacks(checkpoint: Checkpoint, names: dict[str, str], sizes: ModelSizes) -> dict[str, Stored]:
    """The decoder graph's padded head, and its layers' joined projections."""
    head = checkpoint.tensors[names[f"{HEAD}.weight"]]
    rows = padded_outputs(head.shape[0])
    found: dict[str, Stored] = {f"{HEAD}.padded.weight": head if head.shape[0] == rows else Stack((head,), rows)}
    for layer in range(sizes.num_layers):
        at = f"model.text_model.layers.{layer}.self_attn"
        parts = tuple(checkpoint.tensors[names[f"{at}.{letter}_proj.weight"]] for letter in JOINED)
        found[f"{at}.{JOINED}_proj.weight"] = Stack(parts, sum(part.shape[0] for part in parts))
    return found
