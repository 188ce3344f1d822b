"""Outliers moved from activations into weights, where the model allows it without changing what it computes.

Some channels of a model's activations are many times larger than the rest, and coarsen them when both share a scale. What comes
before a matrix (a norm, or another matrix) can be divided by a factor per channel, and the matrix's columns multiplied by it.
How far to go is searched for each group on its own, by the error of the quantised products on a few prompts and pictures
(SmoothQuant, arXiv 2211.10438; AWQ, arXiv 2306.00978).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from ...graphs.contract import AttentionFlavour, GraphName, Manifest
from ..errors import CheckpointError
from ..listener import Listener
from ..models.family import LoudChannels
from ..models.joined import joined_name
from ..packing import Channels, Packing
from ..source.awq import AwqMatrix
from ..source.checkpoint import Changed, read_header
from ..source.source_model import SourceModel
from ..source.streamed import streamed_reference
from .calibration import CalibrationSet
from .quantise import Quantisation, joins_projections

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Powers of a channel's magnitude that are tried as its factor; 0 changes nothing."""
_QUIETEST = 0.02
"""Share of the median magnitude that a channel counts as at least."""
_ROWS, _OUTPUTS = 96, 192
"""Activations and outputs of each matrix that its error is measured on."""


@dataclass
class _Measured:
    """Channels, and what was measured of them."""

    channels: LoudChannels
    magnitude: Tensor | None = None
    """The largest value of each channel of the activations."""
    errors: Tensor = field(default_factory=lambda: torch.zeros(len(STRENGTHS)))

    def factors(self, strength: float) -> Tensor:
        """A factor for each channel of the activations, with a geometric mean near 1."""
        measured = self.magnitude
        assert measured is not None
        if self.channels.repeat is not None:
            heads = measured.view(self.channels.repeat)
            measured = heads.amax(1, keepdim=True).expand(self.channels.repeat).reshape(-1)
        # What was silent here may be loud elsewhere.
        found = measured.clamp(min=max(1e-5, _QUIETEST * float(measured.median()))) ** strength
        return found / (found.max() * found.min()).sqrt()

    def divisors(self, factors: Tensor) -> Tensor:
        """What `before` is divided by: the factors, each once."""
        return factors if self.channels.repeat is None else factors.view(self.channels.repeat)[:, 0].reshape(-1)


@dataclass(frozen=True)
class Scaled(Changed):
    """A tensor times a factor per row and a factor per column."""

    rows: Tensor | None = None
    columns: Tensor | None = None

    def read(self, start: int, stop: int) -> Tensor:
        data = self.base.read(start, stop).float()
        if self.rows is not None:
            data = data * self.rows[start:stop].view(-1, *(1,) * (data.ndim - 1))
        return data if self.columns is None else data * self.columns


Factors = dict[str, dict[str, Tensor]]
"""Factors by row and by column, for each tensor of a checkpoint that gets any."""
_AXES = ("rows", "columns")


def factors_file(quantisation: Quantisation) -> str:
    """Name of the file in a model folder that keeps the factors: without them nobody could tell its integers from wrong ones."""
    return f"smoothing-{quantisation.precision}.safetensors"


def write_factors(folder: Path, quantisation: Quantisation, factors: Factors) -> None:
    """Each axis of each tensor under its name and ``.rows`` or ``.columns``; the file is there only when it is whole."""
    path = folder / factors_file(quantisation)
    # Matrices that read one activation share its factors, which the library does not save as they are.
    tensors = {f"{name}.{axis}": found.clone() for name, own in factors.items() for axis, found in own.items()}
    path.with_suffix(".new").write_bytes(save(tensors))  # save_file lets nobody but its user read the file
    path.with_suffix(".new").rename(path)


def read_factors(folder: Path, quantisation: Quantisation, model: SourceModel) -> Factors:
    """CheckpointError if the factors are missing, or not for this model's tensors."""
    path, factors = folder / factors_file(quantisation), Factors()
    if not path.is_file():
        raise CheckpointError(f"{folder} lacks {path.name}, without which its integers cannot be compared. Export again.")
    for key, stored in read_header(path).items():
        name, _, axis = key.rpartition(".")
        tensor = model.checkpoint.tensors.get(name)
        shape = tensor.shape if tensor is not None else ()
        if axis not in _AXES or not shape or stored.shape != (shape[_AXES.index(axis)],):
            raise CheckpointError(f"{path.name} has factors for {key}, which do not fit {model.checkpoint.source}. Export again.")
        factors.setdefault(name, {})[axis] = stored.read(0, stored.shape[0])
    return factors


def smoothing_factors(
    model: SourceModel,
    quantisations: Sequence[Quantisation],
    attention: AttentionFlavour,
    shown: CalibrationSet,
    listener: Listener,
) -> dict[Quantisation, Factors]:
    """What makes the products of each quantisation better, found on pictures and prompts that the model reads once."""
    reference = streamed_reference(model)
    groups = {plan: _groups(model, plan) for plan in quantisations}
    measured = [(plan, each, name) for plan, own in groups.items() for each in own for name in each.channels.after]
    listener.start("calibrate", 4 * sum(math.prod(model.shapes[name]) for _, _, name in measured))
    for plan, each, name in measured:
        product = joined_name(name) if joins_projections(attention, plan) else name
        worth = model.family.worth(product.removeprefix("model."), model.sizes)
        packing = plan.packing(each.channels.graph, model.stored(name), torch.float32, worth)
        reference.get_submodule(name.removesuffix(".weight")).register_forward_hook(
            _Measure(each, packing, listener),
            prepend=True,  # before the weights are dropped
        )
    with torch.no_grad():
        family = model.family
        ids, places = shown.sequence(family, model.sizes)
        family.hidden_states(reference, ids, family.image_features(reference, shown.pixels), places)
    return {plan: _factors(model, own) for plan, own in groups.items()}


def _groups(model: SourceModel, quantisation: Quantisation) -> list[_Measured]:
    """The channels that a quantisation may change."""
    return [
        _Measured(channels)
        for channels in model.family.channels(model.config)
        if not any(isinstance(model.stored(name), AwqMatrix) for name in (*channels.before, *channels.after))
        and not (channels.cached and quantisation.fast_prompts)
    ]


def _factors(model: SourceModel, groups: Sequence[_Measured]) -> Factors:
    """The best of each group."""
    found: Factors = {}
    for each in groups:
        strength = STRENGTHS[int(each.errors.argmin())]
        if each.magnitude is None or strength == 0:
            continue
        factors = each.factors(strength)
        for name in each.channels.before:
            found.setdefault(model.names[name], {})["rows"] = 1 / each.divisors(factors)
        for name in each.channels.after:
            found.setdefault(model.names[name], {})["columns"] = factors
    return found


def smoothed(model: SourceModel, factors: Factors) -> SourceModel:
    """The model with the factors applied as its tensors are read; it computes the same."""
    tensors = model.checkpoint.tensors
    return model.with_tensors({name: Scaled(tensors[name], **found) for name, found in factors.items()})


def as_quantised(folder: Path, manifest: Manifest, model: SourceModel, graph: GraphName) -> SourceModel:
    """The model with the factors that were moved between its weights before a folder's graph was quantised; else as it is."""
    quantisation = Quantisation.of(manifest, graph)
    return model if quantisation is None else smoothed(model, read_factors(folder, quantisation, model))


class _Measure:
    """A hook that adds a matrix's errors to its group's."""

    def __init__(self, channels: _Measured, packing: Packing, listener: Listener) -> None:
        self._channels, self._packing, self._listener = channels, packing, listener

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], _: Any) -> None:
        channels, x = self._channels, inputs[0].reshape(-1, inputs[0].shape[-1])
        if channels.magnitude is None:
            channels.magnitude = x.abs().mean(0)
        assert isinstance(module.weight, Tensor)
        x = x[:: max(1, len(x) // _ROWS)]
        weights = module.weight[:: max(1, len(module.weight) // _OUTPUTS)]
        expected = x @ weights.T
        for index, strength in enumerate(STRENGTHS):
            factors = channels.factors(strength)
            rows = x / factors
            if isinstance(self._packing, Channels):
                rows = _rounded_rows(rows)
            error = rows @ self._packing.rounded(weights * factors).T - expected
            channels.errors[index] += float(error.square().sum() / expected.square().sum().clamp(min=1e-30))
        self._listener.advance(4 * module.weight.numel())


def _rounded_rows(x: Tensor) -> Tensor:
    """As int8 graphs round activations."""
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
    return (x / scale).round() * scale
