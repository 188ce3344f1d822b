"""What is exported: an Idefics2 whose parameters are tensors of a checkpoint, maybe unpacked or merged as they are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import Idefics2Config

from ..graphs.contract import ModelSizes
from .adapter import merge_adapter
from .architecture import load_config, match_tensors, model_sizes
from .awq import unpack_awq
from .checkpoint import Checkpoint, Stored


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
        return cls(checkpoint, config, sizes, shapes, names, bool(quantised or adapter))

    def stored(self, parameter: str) -> Stored:
        return self.checkpoint.tensors[self.names[parameter]]
