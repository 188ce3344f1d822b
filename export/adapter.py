"""LoRA adapters in PEFT's layout, merged into a checkpoint's matrices as they are read."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoint import Changed, Checkpoint, Stored, read_header, read_json
from .errors import CheckpointError

_CONFIG, _WEIGHTS, _PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
_LOW_RANK = re.compile(r"(.+)\.lora_(?:embedding_)?(A|B)(?:\.default)?(?:\.weight)?")
_SAVED = re.compile(r"\.modules_to_save\.(default\.)?")
_UNCHANGED = ".base_layer."
"""Of tensors that PEFT saves beside the adapter's as they are in the base model."""
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""init_lora_weights that leave the base model's own weights alone."""
_OTHER_KINDS = ("use_dora", "fan_in_fan_out", "lora_bias", "alora_invocation_tokens", "trainable_token_indices")
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Merged(Changed):
    """A matrix plus a scaled product of two small ones."""

    down: Stored
    """[rank, inputs]; of an embedding table [rank, rows]."""
    up: Stored
    """[outputs, rank]; of an embedding table [columns, rank]."""
    scale: float
    table: bool
    """Whether it is an embedding table, whose pair PEFT stores the other way round."""

    def read(self, start: int, stop: int) -> Tensor:
        down = self.down.read(0, self.down.shape[0]).float()
        up = self.up.read(*((0, self.up.shape[0]) if self.table else (start, stop))).float()
        left, right = (down.T[start:stop], up.T) if self.table else (up, down)
        return torch.addmm(self.base.read(start, stop).float(), left, right, alpha=self.scale)


def merge_adapter(checkpoint: Checkpoint, names: dict[str, str], folder: Path) -> tuple[Checkpoint, dict[str, str]]:
    """The checkpoint with an adapter's changes, and the names of the model's parameters in it.

    Raises CheckpointError, naming what, for an adapter that is not plain LoRA or does not fit the model.
    """
    config = _config(folder)
    if not (folder / _WEIGHTS).is_file():
        raise CheckpointError(f"{folder} has no {_WEIGHTS}. Save the adapter with peft's save_pretrained.")
    tensors, names = dict(checkpoint.tensors), dict(names)

    def change(parameter: str, tensor: Stored) -> None:
        """Under a name of its own: a tied tensor stays what it is for the other parameter."""
        names[parameter] = f"{parameter} of {folder.name}"
        tensors[names[parameter]] = tensor

    pairs: dict[str, dict[str, Stored]] = {}
    for name, tensor in read_header(folder / _WEIGHTS).items():
        own = name.removeprefix(_PREFIX)
        if tensor.dtype not in _FLOATS:
            raise CheckpointError(f"{folder}'s {name} is not fp32, fp16 or bf16. Save the adapter in one of them.")
        found = _LOW_RANK.fullmatch(own)
        target = f"{found[1]}.weight" if found else _SAVED.sub(".", own)
        if not found and _UNCHANGED in own:
            continue
        if target not in names:
            raise CheckpointError(f"{folder} changes {own}, which {checkpoint.source} does not have. Name its base model.")
        if found:
            pairs.setdefault(target, {})[found[2]] = tensor
        else:
            _fits(folder, own, tensor.shape, tensors[names[target]].shape)
            change(target, tensor)
    for target, pair in pairs.items():
        base = tensors[names[target]]
        if set(pair) != {"A", "B"} or len(base.shape) != 2 or not pair["A"].shape or not pair["A"].shape[0]:
            raise CheckpointError(
                f"{folder}'s low-rank pair of {target} is not whole, or not of a matrix. Save the adapter again."
            )
        rank, table = pair["A"].shape[0], target.endswith("embed_tokens.weight")
        rows, columns = base.shape
        _fits(folder, f"{target} (lora_A)", pair["A"].shape, (rank, rows if table else columns))
        _fits(folder, f"{target} (lora_B)", pair["B"].shape, (columns if table else rows, rank))
        scale = _scale(folder, config, target.removesuffix(".weight"), rank)
        change(target, Merged(base, pair["A"], pair["B"], scale, table))
    return replace(checkpoint, tensors=tensors, source=f"{checkpoint.source}+{folder.resolve().name}"), names


def _config(folder: Path) -> dict[str, Any]:
    if not (folder / _CONFIG).is_file():
        raise CheckpointError(f"{folder} has no {_CONFIG}. Give the folder of an adapter saved by peft.")
    config = read_json(folder / _CONFIG)
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise CheckpointError(f"{folder} is a {kind} adapter. Only LORA can be merged; merge it with peft first.")
    for option in _OTHER_KINDS:
        if config.get(option):
            raise CheckpointError(f"{folder} was trained with {option}, which is not plain LoRA. Merge it with peft first.")
    start = config.get("init_lora_weights")
    if start not in _PLAIN_STARTS:
        raise CheckpointError(f"{folder} starts from {start}, which changes the base model. Merge it with peft first.")
    return dict(config)


def _scale(folder: Path, config: dict[str, Any], module: str, rank: int) -> float:
    """What the product counts: alpha ÷ rank, or ÷ √rank for rank-stabilised adapters."""
    patterns = config.get("alpha_pattern") or {}
    try:
        own = [alpha for key, alpha in patterns.items() if re.match(rf"(.*\.)?({key})$", module)]  # as peft does
        return float((own or [config.get("lora_alpha", rank)])[0]) / (rank**0.5 if config.get("use_rslora") else rank)
    except (AttributeError, TypeError, ValueError, re.error) as error:
        raise CheckpointError(
            f"{folder / _CONFIG} has an alpha that is no number or a pattern that is none. Save the adapter again."
        ) from error


def _fits(folder: Path, name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if tuple(found) != tuple(expected):
        raise CheckpointError(
            f"{folder}'s {name} has shape {list(found)}, but the model makes it {list(expected)}. Name the adapter's base model."
        )
