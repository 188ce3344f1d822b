"""The tensors in an adapter's file, by what they do: low-rank parts of a module, or the new numbers of a parameter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import CheckpointError
from .checkpoint import ADAPTER_WEIGHTS, Stored, read_header

_PREFIX = "base_model.model."
_PART = re.compile(
    r"(.+)\.(?:lora_(A|B|embedding_A|embedding_B)|lora_(magnitude_vector)|token_adapter\.(trainable_tokens_delta))"
    r"(?:\.default)?(?:\.(weight|bias))?"
)
_SAVED = re.compile(r"\.modules_to_save(\.default)?(?=\.)")
_BASE = re.compile(r"(\.token_adapter)?\.base_layer(?=\.)")
"""What peft puts around a module, also where modules inside of it are tuned, too."""
_KEPT = ".original_module."
"""The numbers that a module which is saved whole had before the tuning. peft loads them and computes with the tuned ones."""
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Found:
    """A tensor of the adapter."""

    name: str
    """In the file."""
    tensor: Stored


@dataclass(frozen=True)
class AdapterTensors:
    """All of a file's tensors."""

    parts: dict[str, dict[str, Found]]
    """By module and part: "A", "B", "B.bias", "embedding_A", "embedding_B", "magnitude_vector", "trainable_tokens_delta"."""
    replaced: dict[str, Found]
    """New numbers of whole parameters, by the model's names: trained ones, or of the base model that it was tuned from."""

    @classmethod
    def load(cls, folder: Path) -> AdapterTensors:
        """Raises CheckpointError, naming what, for a file that is missing or damaged, and for numbers that are none."""
        path, found = weights_file(folder), cls({}, {})
        kept: dict[str, str] = {}
        for name, tensor in read_header(path).items():
            _check_numbers(folder, name, tensor)
            own = _BASE.sub("", _SAVED.sub("", name.removeprefix(_PREFIX)))
            if part := _PART.fullmatch(own):
                kind = next(filter(None, part.groups()[1:4]))
                slot, place = found.parts.setdefault(part[1], {}), f"{kind}.bias" if part[5] == "bias" else kind
            elif _KEPT in own:
                kept[own.replace(_KEPT, ".")] = name
                continue
            else:
                slot, place = found.replaced, own
            if place in slot and not _same(slot[place].tensor, tensor):  # peft may save a module twice, under two names
                raise CheckpointError(f"{folder}'s {name} and {slot[place].name} should be the same. Save the adapter again.")
            slot.setdefault(place, Found(name, tensor))
        if not found.parts and not found.replaced:
            raise CheckpointError(f"{path} holds no tensors. Save the adapter again.")
        for target, name in kept.items():
            if target not in found.replaced:
                raise CheckpointError(f"{folder} holds {name}, but not what became of it. Save the adapter again.")
        return found


def weights_file(folder: Path) -> Path:
    """The file of an adapter's tensors. Raises CheckpointError if there is none that is safe to open."""
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no {ADAPTER_WEIGHTS}. An adapter_model.bin is a pickle, which may run code and is not opened: if you "
            "trust it, load it with peft's PeftModel.from_pretrained and save it with save_pretrained(..., "
            "safe_serialization=True)."
        )
    return path


def _check_numbers(folder: Path, name: str, tensor: Stored) -> None:
    if not tensor.dtype.is_floating_point:
        raise CheckpointError(f"{folder}'s {name} is not fp64, fp32, fp16 or bf16. Save the adapter in one of them.")
    rows = tensor.shape[0] if tensor.shape else 1
    for start in range(0, rows, _ROWS_AT_ONCE):
        if not tensor.read(start, min(start + _ROWS_AT_ONCE, rows)).isfinite().all():
            raise CheckpointError(f"{folder}'s {name} holds numbers that are not finite. Train or save the adapter again.")


def _same(one: Stored, other: Stored) -> bool:
    if one.shape != other.shape:
        return False
    rows = one.shape[0] if one.shape else 1
    parts = ((start, min(start + _ROWS_AT_ONCE, rows)) for start in range(0, rows, _ROWS_AT_ONCE))
    return all(torch.equal(one.read(*part).double(), other.read(*part).double()) for part in parts)
