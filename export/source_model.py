"""What is exported: an Idefics2 whose parameters are tensors of a checkpoint, maybe unpacked or merged as they are read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from transformers import Idefics2Config

from ..graphs.contract import ModelSizes
from ..graphs.vision import projection_blocks
from .adapter import merge_adapter
from .architecture import load_config, match_tensors, model_sizes
from .awq import unpack_awq
from .checkpoint import Checkpoint, Part, Stored

PROJECTION = "model.connector.modality_projection"


@dataclass(frozen=True)
class SourceModel:
    """A checkpoint that is an Idefics2, with its tensors as the model's parameters."""

    checkpoint: Checkpoint
    config: Idefics2Config
    sizes: ModelSizes
    shapes: dict[str, tuple[int, ...]]
    """Of each parameter."""
    names: dict[str, str]
    """The model's parameters → the checkpoint's tensors."""
    changed: bool
    """Whether the tensors are not simply the files' (unpacked from integers, or merged with an adapter)."""

    @classmethod
    def open(cls, source: str | Path, revision: str | None = None, adapter: Path | None = None) -> SourceModel:
        """A folder or hub id, unpacked if AWQ has quantised it, and merged with a LoRA adapter if one is given."""
        checkpoint = Checkpoint.open(source, revision)
        config = load_config(checkpoint)
        quantised = getattr(config, "quantization_config", None)
        if quantised:
            checkpoint = unpack_awq(checkpoint, quantised)
        sizes, shapes, tied = model_sizes(config)
        names = match_tensors(checkpoint, shapes, tied)
        if adapter is not None:
            checkpoint, names = merge_adapter(checkpoint, names, adapter)
        checkpoint, names = _divide_projection(checkpoint, names)
        return cls(checkpoint, config, sizes, shapes, names, bool(quantised or adapter))

    def stored(self, parameter: str) -> Stored:
        return self.checkpoint.tensors[self.names[parameter]]


def _divide_projection(checkpoint: Checkpoint, names: dict[str, str]) -> tuple[Checkpoint, dict[str, str]]:
    """With the blocks that the vision graph makes of the connector's projection, as parameters of their own."""
    tensors, names = dict(checkpoint.tensors), dict(names)
    gate, up, down = (tensors[names[f"{PROJECTION}.{kind}_proj.weight"]] for kind in ("gate", "up", "down"))
    inputs, outputs = range(gate.shape[1]), range(down.shape[0])
    for index, block in enumerate(projection_blocks(gate.shape[0])):
        parts = {"gate": Part(gate, block, inputs), "up": Part(up, block, inputs), "down": Part(down, outputs, block)}
        for kind, part in parts.items():
            name = f"{PROJECTION}.blocks.{index}.{kind}_proj.weight"
            names[name], tensors[name] = name, part
    return replace(checkpoint, tensors=tensors), names
