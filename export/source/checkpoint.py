"""A checkpoint on disk: its config, checked, and its tensors, read a few rows at a time."""

from __future__ import annotations

import functools
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ...graphs.errors import ModelFolderError
from ...runtime.errors import first_line, readable
from ...runtime.folder import MODEL_CARD
from ...runtime.outside.hub import HUB_ID, download
from ..direct_io import read_direct
from ..errors import CheckpointError
from ..models.json_file import read_json

DEFAULT_CHECKPOINT = "HuggingFaceM4/idefics2-8b"
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")
_FILES = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json", "chat_template.json",
    "chat_template.jinja", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", *_TOKENIZERS, _INDEX, _SINGLE,
    ADAPTER_CONFIG, ADAPTER_WEIGHTS, MODEL_CARD,
)  # fmt: skip
"""What an export reads of a hub repository besides the weights of an index."""
_MAX_HEADER = 100_000_000  # bytes; the safetensors library's own bound
_LONGEST_NAME = 255  # bytes, as file systems have it
_ROWS_AT_ONCE = 256
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I32": torch.int32,
}  # fmt: skip


class Stored(Protocol):
    """A tensor that can be read a few rows at a time, wherever its numbers come from."""

    def __hash__(self) -> int: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def read(self, start: int, stop: int) -> Tensor:
        """Rows start…stop; of a scalar, (0, 1) is the whole."""
        ...


@dataclass(frozen=True)
class Held:
    """A tensor in memory, read like one in a file."""

    tensor: Tensor

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def read(self, start: int, stop: int) -> Tensor:
        return self.tensor[start:stop] if self.shape else self.tensor


@dataclass(frozen=True)
class Changed:
    """Another tensor, whose numbers a subclass changes as they are read; float32."""

    base: Stored

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape


@dataclass(frozen=True)
class Part:
    """Some rows or some columns of a matrix."""

    base: Stored
    rows: range
    columns: range

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.rows), len(self.columns)

    def read(self, start: int, stop: int) -> Tensor:
        wanted = self.rows[start:stop]
        if len(self.columns) == self.base.shape[1]:
            return self.base.read(wanted.start, wanted.stop)
        found = torch.empty(len(wanted), len(self.columns), dtype=self.dtype)
        for at in range(0, len(wanted), _ROWS_AT_ONCE):
            rows = wanted[at : at + _ROWS_AT_ONCE]
            found[at : at + len(rows)] = self.base.read(rows.start, rows.stop)[:, self.columns.start : self.columns.stop]
        return found


@dataclass(frozen=True)
class Stack:
    """Matrices one below another, and below them rows of zeros."""

    parts: tuple[Stored, ...]
    rows: int
    """All rows, the zeros included."""

    @property
    def dtype(self) -> torch.dtype:
        return functools.reduce(torch.promote_types, (part.dtype for part in self.parts))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rows, self.parts[0].shape[1]

    def read(self, start: int, stop: int) -> Tensor:
        found, above = torch.zeros(stop - start, self.shape[1], dtype=self.dtype), 0
        for part in self.parts:
            first, last = max(start, above), min(stop, above + part.shape[0])
            if first < last:
                found[first - start : last - start] = part.read(first - above, last - above)
            above += part.shape[0]
        return found


@dataclass(frozen=True)
class Beside:
    """Matrices of as many rows, one beside another."""

    parts: tuple[Stored, ...]

    @property
    def dtype(self) -> torch.dtype:
        return functools.reduce(torch.promote_types, (part.dtype for part in self.parts))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.parts[0].shape[0], sum(part.shape[1] for part in self.parts)

    def read(self, start: int, stop: int) -> Tensor:
        return torch.cat([part.read(start, stop) for part in self.parts], dim=1)


@dataclass(frozen=True)
class FileTensor:
    """One tensor in a safetensors file."""

    name: str
    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    """First byte in the file."""
    finite: bool = False
    """Whether every number of it has to be."""

    def read(self, start: int, stop: int) -> Tensor:
        """Reads instead of the safetensors library's memory map: mapped pages stay resident until they are unmapped, and the
        exporter's memory is bounded.
        """
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        length = (stop - start) * row
        data = read_direct(self.path, self.offset + start * row, length)
        if len(data) != length:
            raise CheckpointError(f"{self.path.name} ended inside the tensor {self.name}. Download it again.")
        found = torch.from_numpy(data).view(self.dtype).reshape(stop - start, *self.shape[1:])
        # NaN is its own smallest and largest; isfinite takes a hundred times as long.
        if self.finite and found.is_floating_point() and found.numel() and not torch.stack(found.aminmax()).isfinite().all():
            raise CheckpointError(
                f"{self.path.name}'s tensor {self.name} holds numbers that are not finite. Download or save the checkpoint again."
            )
        return found


@dataclass(frozen=True)
class Checkpoint:
    """A folder with config.json and safetensors weights."""

    folder: Path
    source: str
    """What the user called it: a hub id, or the folder's name."""
    revision: str | None
    """Commit of a hub checkpoint."""
    tensors: dict[str, Stored]
    """None in a folder that holds an adapter alone."""

    @classmethod
    def open(cls, source: str | Path, revision: str | None = None) -> Checkpoint:
        """A folder, or a hub id (``owner/name``, no Path) that is downloaded into the hub's cache first."""
        folder = Path(source)
        if os.path.isdir(folder):  # noqa: PTH112  unlike Path's, it answers for names that no folder can have
            return cls(folder, folder.resolve().name, None, _locate(folder))
        if isinstance(source, Path) or os.path.lexists(folder) or not HUB_ID.fullmatch(source):
            raise CheckpointError(f"{source!s:.200} is neither a folder nor a hub id like {DEFAULT_CHECKPOINT}. Check the path.")
        try:
            folder = _download(source, revision)
        except ModelFolderError as error:
            raise CheckpointError(str(error)) from error
        return cls(folder, source, folder.name, _locate(folder))

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Rows start…stop of a tensor, in the dtype it is stored in."""
        return self.tensors[name].read(start, stop)

    def read_all(self, name: str) -> Tensor:
        """A whole tensor."""
        shape = self.tensors[name].shape
        return self.read(name, 0, shape[0] if shape else 1).reshape(shape)


def _download(hub_id: str, revision: str | None) -> Path:
    """Configs, tokenizer and one set of weights: a repository may hold others in sub-folders and in other formats."""
    processor = ("preprocessor_config.json", "processor_config.json")
    needed = [("config.json",), _TOKENIZERS, processor, (_SINGLE, _INDEX)]  # an adapter's repository needs none of them
    folder = download(hub_id, revision, _FILES, [(*names, ADAPTER_CONFIG) for names in needed])
    if not (folder / _SINGLE).is_file() and (folder / _INDEX).is_file():
        names = sorted(set(_weight_map(folder).values()))
        download(hub_id, folder.name, names, [[name] for name in names])
    return folder


@readable(CheckpointError)
def _locate(folder: Path) -> dict[str, Stored]:
    if (folder / _SINGLE).is_file():  # first, as in transformers: an index beside it is left over from another save
        return read_header(folder / _SINGLE)
    if (folder / _INDEX).is_file():
        weight_map = _weight_map(folder)
        names = sorted(set(weight_map.values()))
    elif (folder / ADAPTER_CONFIG).is_file():
        return {}
    elif any(folder.glob("*.bin")):
        raise CheckpointError(
            f"{folder} has its weights in .bin files, which are pickles and may run code. Convert them to safetensors with "
            "transformers' save_pretrained."
        )
    else:
        raise CheckpointError(f"{folder} has neither {_SINGLE} nor {_INDEX}. Give a folder with a whole checkpoint.")
    tensors: dict[str, Stored] = {}
    for name in names:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} lacks the weights file {name}, which its index names. Download it again.")
        tensors.update({key: place for key, place in read_header(folder / name).items() if weight_map.get(key) == name})
    return tensors


def _weight_map(folder: Path) -> dict[str, str]:
    """Which file holds each tensor, by the index."""
    index = read_json(folder / _INDEX)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{folder / _INDEX} has no weight_map. Download it again.")
    for name in map(str, weight_map.values()):
        if Path(name).name != name or not name.endswith(".safetensors") or len(name.encode(errors="replace")) > _LONGEST_NAME:
            raise CheckpointError(f"{folder / _INDEX} names the file {name!r:.100}, which is not a safetensors file beside it.")
    return {key: str(name) for key, name in weight_map.items()}


@readable(CheckpointError)
def read_header(path: Path) -> dict[str, Stored]:
    """Where each tensor lies: 8 bytes of header length, the header as JSON, the data."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(_MAX_HEADER, size - 8):
            raise CheckpointError(f"{path} is damaged or incomplete: {size} bytes. Download it again.")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            found = {name: _location(name, path, 8 + length, entry) for name, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise CheckpointError(f"{path} has a damaged header ({first_line(error)}). Download it again.") from error
    for name, tensor in found.items():
        if tensor.offset + math.prod(tensor.shape) * tensor.dtype.itemsize > size:
            raise CheckpointError(f"{path} is incomplete: {size} bytes end before the tensor {name} does. Download it again.")
    return dict(found)


def _location(name: str, path: Path, data: int, entry: dict[str, Any]) -> FileTensor:
    shape, (begin, end) = tuple(map(int, entry["shape"])), map(int, entry["data_offsets"])
    # Other integer tensors belong to quantised checkpoints that the config check refuses by name.
    dtype = _DTYPES.get(entry["dtype"], torch.uint8)
    if min((begin, *shape), default=0) < 0 or (entry["dtype"] in _DTYPES and end - begin != math.prod(shape) * dtype.itemsize):
        raise ValueError(f"{end - begin} bytes for shape {shape}")
    return FileTensor(name, path, dtype, shape, data + begin, finite=True)
