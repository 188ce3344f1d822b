"""LoRA adapters in PEFT's layout, merged into a checkpoint's matrices as they are read."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoint import Checkpoint, Stored, read_header, read_json
from .errors import CheckpointError

_CONFIG, _WEIGHTS, _PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
_SAVED = re.compile(r"\.modules_to_save\.(default\.)?")
_LOW_RANK = re.compile(r"(.+)\.lora_(A|B)\.(?:default\.)?weight")


@dataclass(frozen=True)
class MergedMatrix:
    """A matrix plus a product of two small ones."""

    base: Stored
    down: Tensor
    """float32 [rank, inputs]."""
    up: Tensor
    """float32 [outputs, rank], scale included."""

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    def read(self, start: int, stop: int) -> Tensor:
        return torch.addmm(self.base.read(start, stop).float(), self.up[start:stop], self.down)


def merge_adapter(checkpoint: Checkpoint, names: dict[str, str], folder: Path) -> Checkpoint:
    """The checkpoint with an adapter's changes; `names` maps the model's parameters to the checkpoint's tensors.

    Raises CheckpointError, naming what, for an adapter that is not plain LoRA or does not fit the model.
    """
    config = read_json(folder / _CONFIG)
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise CheckpointError(f"{folder} is a {kind} adapter. Only LORA can be merged; merge it with peft first.")
    for option in ("use_dora", "fan_in_fan_out", "lora_bias"):
        if config.get(option):
            raise CheckpointError(f"{folder} was trained with {option}, which is not plain LoRA. Merge it with peft first.")
    if not (folder / _WEIGHTS).is_file():
        raise CheckpointError(f"{folder} has no {_WEIGHTS}. Save the adapter with peft's save_pretrained.")
    stored = {name.removeprefix(_PREFIX): tensor for name, tensor in read_header(folder / _WEIGHTS).items()}
    pairs: dict[str, dict[str, Stored]] = {}
    tensors = dict(checkpoint.tensors)
    for name, tensor in stored.items():
        found = _LOW_RANK.fullmatch(name)
        target = (
            f"{found[1]}.weight" if found else name.replace(".modules_to_save.default.", ".").replace(".modules_to_save.", ".")
        )
        if target not in names:
            raise CheckpointError(f"{folder} changes {name}, which {checkpoint.source} does not have. Name its base model.")
        if found:
            pairs.setdefault(target, {})[found[2]] = tensor
        else:
            _fits(folder, name, tensor.shape, tensors[names[target]].shape)
            tensors[names[target]] = tensor
    for target, pair in pairs.items():
        base = tensors[names[target]]
        if set(pair) != {"A", "B"}:
            raise CheckpointError(f"{folder} has only half of {target}'s low-rank pair. Save the adapter again.")
        rank = pair["A"].shape[0]
        _fits(folder, f"{target} (lora_A)", pair["A"].shape, (rank, *base.shape[1:]))
        _fits(folder, f"{target} (lora_B)", pair["B"].shape, (base.shape[0], rank))
        down, up = (pair[part].read(0, pair[part].shape[0]).float() for part in "AB")
        tensors[names[target]] = MergedMatrix(base, down, up * _scale(config, target.removesuffix(".weight"), rank))
    return replace(checkpoint, tensors=tensors, source=f"{checkpoint.source}+{folder.resolve().name}")


def _scale(config: dict[str, Any], module: str, rank: int) -> float:
    """What the product counts: alpha ÷ rank, or ÷ √rank for rank-stabilised adapters."""
    patterns = config.get("alpha_pattern") or {}
    alpha = next(
        (alpha for key, alpha in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), config.get("lora_alpha", rank)
    )
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)


def _fits(folder: Path, name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if tuple(found) != tuple(expected):
        raise CheckpointError(
            f"{folder}'s {name} has shape {list(found)}, but the model makes it {list(expected)}. Name the adapter's base model."
        )
