"""transformers' model without its weights: each module reads its own from the checkpoint when it runs, and drops them again."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...runtime.parallel import in_parallel
from ..ahead import ahead
from ..heap import empty
from .arithmetic import Arithmetic
from .checkpoint import Stored
from .source_model import SourceModel

_NUMBERS, _BLOCKS = 1 << 18, 16
"""Multiplied with at once, and how many such blocks are read at once. In float64 a block has 2 MB, which
stay in the processor's cache and on the heap; larger ones get fresh pages each time, and to have those filled takes longer than
to multiply with the numbers."""


def streamed_reference(source: SourceModel, arithmetic: Arithmetic | None = None) -> Any:
    """The reference; in fp32, or in an arithmetic of its own, which never holds more of a matrix than a few rows."""
    family, plain = source.family, arithmetic is None
    arithmetic = arithmetic or Arithmetic()
    with torch.device("meta"):
        model = family.reference._from_config(source.config, attn_implementation="sdpa", dtype=torch.float32)
    model.eval().requires_grad_(False)
    family.prepare(model, source.config, arithmetic.packed, arithmetic.activations(family.tables[0]))
    _stream(model, source, arithmetic)
    if plain:
        return model
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            _replace_forward(module, _Product(path, source, arithmetic, module.bias is not None))
        elif isinstance(module, nn.Conv2d):
            _replace_forward(module, _Convolution(module, path, arithmetic))
        elif isinstance(module, family.norms) and arithmetic.exact:
            _replace_forward(module, _Norm(module))
    for path, rotation in family.rotations(model):
        rotation.register_forward_hook(partial(_stored_tables, arithmetic, path))
    return model


def _stored_tables(arithmetic: Arithmetic, path: str, _: nn.Module, __: Any, tables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The graphs' tables are stored in their type."""
    return tuple(arithmetic.stored(table).to(arithmetic.activations(path)) for table in tables)


def _stream(model: nn.Module, source: SourceModel, arithmetic: Arithmetic) -> None:
    """Let every module with parameters of its own read them as it runs."""
    for path, module in model.named_modules():
        stored = {name: _matrix(f"{path}.{name}", source, arithmetic) for name, _ in module.named_parameters(recurse=False)}
        if isinstance(module, nn.Embedding):
            _replace_forward(module, _Lookup(stored["weight"], path, arithmetic))
        elif stored and not (isinstance(module, nn.Linear) and arithmetic != Arithmetic()):
            weights = _Weights(stored, path, arithmetic)
            module.register_forward_pre_hook(weights.load)
            module.register_forward_hook(weights.drop, always_call=True)


def _matrix(parameter: str, source: SourceModel, arithmetic: Arithmetic) -> Stored:
    return arithmetic.packed.get(parameter) or source.stored(parameter)


def _replace_forward(module: nn.Module, forward: Any) -> None:
    setattr(module, "forward", forward)  # noqa: B010  mypy forbids the plain way


class _Weights:
    """The weights of one module."""

    def __init__(self, stored: dict[str, Stored], path: str, arithmetic: Arithmetic) -> None:
        self._stored, self._path, self._arithmetic = stored, path, arithmetic

    def load(self, module: nn.Module, _: Any) -> None:
        for name, stored in self._stored.items():
            rows = stored.shape[0] if stored.shape else 1
            tensor = empty(stored.shape, self._arithmetic.activations(self._path))
            filled, step = tensor.view(rows, -1), max(1, _NUMBERS * rows // max(1, tensor.numel()))

            def fill(start: int, stored: Stored = stored, filled: Tensor = filled, rows: int = rows, step: int = step) -> None:
                part = stored.read(start, min(start + step * _BLOCKS, rows)).reshape(-1, filled.shape[1])
                for at in range(0, len(part), step):
                    block = part[at : at + step]
                    filled[start + at : start + at + len(block)] = self._arithmetic.stored(block)

            in_parallel(fill, range(0, rows, step * _BLOCKS))
            setattr(module, name, nn.Parameter(tensor, requires_grad=False))

    def drop(self, module: nn.Module, *_: Any) -> None:
        for name, stored in self._stored.items():
            setattr(module, name, nn.Parameter(torch.empty(stored.shape, device="meta"), requires_grad=False))


class _Lookup:
    """An embedding that reads only the rows that are asked for."""

    def __init__(self, stored: Stored, path: str, arithmetic: Arithmetic) -> None:
        self._stored, self._path, self._arithmetic = stored, path, arithmetic

    def __call__(self, ids: Tensor) -> Tensor:
        wanted, places = ids.unique(return_inverse=True)
        rows = torch.cat([self._stored.read(int(i), int(i) + 1) for i in wanted])
        return self._arithmetic.stored(rows).to(self._arithmetic.activations(self._path))[places]


class _Product:
    """A linear layer that reads some rows of its matrix at a time.

    Narrow types multiply and sum in float32 and round the result once, as their kernels do.
    """

    def __init__(self, path: str, source: SourceModel, arithmetic: Arithmetic, biased: bool) -> None:
        self._path, self._arithmetic = path, arithmetic
        self._matrix = _matrix(f"{path}.weight", source, arithmetic)
        self._packed = arithmetic.packed.get(f"{path}.weight")
        self._bias = source.stored(f"{path}.bias") if biased else None

    def __call__(self, x: Tensor) -> Tensor:
        arithmetic, (rows, columns) = self._arithmetic, self._matrix.shape
        if self._packed is not None and not arithmetic.exact:
            x = self._packed.rounded(x.float())
        x = x.double() if arithmetic.exact else x.float()
        step = max(1, _NUMBERS // columns)
        product = torch.empty(*x.shape[:-1], rows, dtype=x.dtype)
        starts = range(0, rows, step * _BLOCKS)
        parts = (self._matrix.read(start, min(start + step * _BLOCKS, rows)) for start in starts)
        for start, part in zip(starts, ahead(parts), strict=True):

            def multiply(at: int, start: int = start, part: Tensor = part) -> None:
                block = part[at : at + step]
                product[..., start + at : start + at + len(block)] = x @ arithmetic.stored(block).T

            in_parallel(multiply, range(0, len(part), step))
        if self._bias is not None:
            product += arithmetic.stored(self._bias.read(0, rows))
        return arithmetic.rounded(self._path, product)


class _Convolution:
    """The patches' convolution; like `_Product`, it rounds once."""

    def __init__(self, module: nn.Conv2d, path: str, arithmetic: Arithmetic) -> None:
        self._module, self._dtype = module, arithmetic.activations(path)
        self._wide = torch.float64 if arithmetic.exact else torch.float32

    def __call__(self, pixels: Tensor) -> Tensor:
        module, wide = self._module, self._wide
        bias = module.bias.to(wide) if module.bias is not None else None
        return functional.conv2d(pixels.to(wide), module.weight.to(wide), bias, module.stride).to(self._dtype)


class _Norm:
    """The reference's RMS norm without its step to float32."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __call__(self, x: Tensor) -> Tensor:
        found: Tensor = self._module.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self._module.variance_epsilon))
        return found
