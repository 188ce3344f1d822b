"""The reference beside a folder: computed in float64, and in the folder's own type, on the weights as the folder stores them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...graphs.contract import GraphName, Manifest
from ...runtime.parallel import begin, result_of
from ..quantisation.smoothing import as_quantised
from ..source.arithmetic import Arithmetic, PackedMatrix
from ..source.checkpoint import Part, Stack, Stored
from ..source.source_model import SourceModel
from ..source.streamed import streamed_reference
from .cut import roundings
from .difference import Difference, Error
from .folder_matrix import folder_matrices
from .weights import WeightsCheck

_T = TypeVar("_T")
_DECODERS: tuple[GraphName, ...] = ("decoder", "prompt")
COPIES = 3
"""Times that the reference computes in the folder's type: where one rounding decides, one time may be lucky."""


@dataclass
class Memory:
    """Rows of a checkpoint that were read, for whoever computes with the same ones next."""

    blocks: dict[Stored, dict[int, Tensor]] = field(default_factory=dict)
    """Of each tensor, by their first row."""
    keeps: bool = False
    lock: Lock = field(default_factory=Lock)
    """Held while rows are read, so that whoever wants the same ones gets them from here."""

    @contextlib.contextmanager
    def keeping(self) -> Iterator[None]:
        """Keep what is read, until this ends."""
        self.keeps = True
        try:
            yield
        finally:
            self.keeps = False
            self.blocks.clear()

    def read(self, tensor: Stored, start: int, stop: int) -> Tensor:
        """Rows of a tensor: of blocks that are kept, or else its own."""
        if not self.keeps:
            return tensor.read(start, stop)
        with self.lock:
            blocks, found, row = self.blocks.setdefault(tensor, {}), [], start
            for first, block in sorted(blocks.items()):
                if first <= row < min(stop, first + len(block)):
                    found.append(block[row - first : stop - first])
                    row += len(found[-1])
            if not found or row < stop:
                blocks[start] = tensor.read(start, stop)
                return blocks[start]
        return found[0] if len(found) == 1 else torch.cat(found)


@dataclass(frozen=True)
class _Kept:
    """A tensor whose rows come from a memory, if it has them."""

    base: Stored
    memory: Memory = field(compare=False)

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    def read(self, start: int, stop: int) -> Tensor:
        return self.memory.read(self.base, start, stop)


def _kept(tensor: Stored, memory: Memory) -> Stored:
    """A tensor, or what it is made of, with rows from a memory."""
    if isinstance(tensor, Stack):
        return replace(tensor, parts=tuple(_kept(part, memory) for part in tensor.parts))
    if isinstance(tensor, Part):
        return replace(tensor, base=_kept(tensor.base, memory))
    return _Kept(tensor, memory)


@dataclass(frozen=True)
class Reference:
    """One model in two arithmetics."""

    truth: Any
    """transformers' model in float64."""
    own: Any
    """The same in the folder's type."""
    source: SourceModel
    """Where both read their weights."""
    arithmetic: Arithmetic
    """The arithmetic of `own`."""
    memory: Memory
    """What is kept of them."""
    checks: Mapping[GraphName, WeightsCheck]
    """Those of the folder's graphs that compare weights with the checkpoint's while both are held."""

    @classmethod
    def of(
        cls,
        folder: Path,
        manifest: Manifest,
        source: SourceModel,
        decoder: GraphName = "decoder",
        unrounded: bool = False,
        checks: Mapping[GraphName, WeightsCheck] | None = None,
    ) -> Reference:
        """The reference for a folder.

        Args:
            decoder: the graph whose text model is meant, "decoder" or the "prompt" beside it.
            unrounded: take the checkpoint's numbers in the place of a folder's integers, to say what their rounding costs.
        """
        packed: dict[str, PackedMatrix] = {}
        if manifest.quantisation is not None and not unrounded:
            for graph in (*source.family.graph_names, decoder):
                if graph not in _DECODERS or graph == decoder:
                    packed |= folder_matrices(folder, graph, source)
        source, memory = as_quantised(folder, manifest, source, decoder), Memory()
        kept = {name: _kept(tensor, memory) for name, tensor in source.checkpoint.tensors.items()}
        source = replace(source, checkpoint=replace(source.checkpoint, tensors=kept))
        truth, own = (Arithmetic(manifest.dtype, exact, packed) for exact in (True, False))
        return cls(streamed_reference(source, truth), streamed_reference(source, own), source, own, memory, checks or {})

    def parameter(self, name: str) -> Tensor:
        """A parameter as the folder stores it, float64."""
        return self.arithmetic.stored(self.source.checkpoint.read_all(self.source.names[name])).double()

    def both(self, compute: Callable[..., _T], *given: Tensor, copies: int = 1) -> tuple[_T, _T]:
        """compute(model, *given) of both at once, the truth from the same numbers widened.

        With `copies`, `given` have a batch of 1, and the folder's type computes it so many times along that axis: once from them
        and else from neighbours of each number, a rounding away.
        """
        generator, batches = torch.Generator().manual_seed(0), []
        for x in given:
            signs = 2.0 * torch.randint(0, 2, (copies - 1, *x.shape[1:]), generator=generator) - 1
            near = [(x.double() * (1 + torch.finfo(x.dtype).eps * signs)).to(x.dtype)] if copies > 1 else []
            batches.append(torch.cat([x, *near]))
        own = begin(lambda: compute(self.own, *batches))
        truth = compute(self.truth, *(x.double() for x in given))
        return truth, result_of(own)

    def compare(
        self, part: ir.Model, what: str, found: NDArray[np.float32], truth: Tensor, own: Tensor, like: Tensor | None = None
    ) -> Difference:
        """What a graph, or a part of one, has computed, beside both references' results.

        Arrays of one shape, but that `own` may have copies along its first axis; `like` as in `Error.of`.
        """
        graph: Any = part.graph.name
        dtype = torch.float16 if part.graph.outputs[0].dtype == ir.DataType.FLOAT16 else torch.float32
        exact, rounded = truth.numpy(), own.to(dtype)
        copies = rounded[None] if rounded.shape == exact.shape else rounded[:, None]
        least = Error(*(count * torch.finfo(dtype).eps for count in roundings(part)))
        sizes = like.numpy() if like is not None else None
        errors = Error.of(found, exact, sizes), Error.largest_of(Error.of(copy.double().numpy(), exact, sizes) for copy in copies)
        return Difference(graph, what, self.arithmetic.name, *errors, least, bool(np.isfinite(exact).all()))


def decoders_of(manifest: Manifest) -> tuple[GraphName, ...]:
    """What reads prompts in a folder: the decoder, and the one for prompts if there is one."""
    return tuple(name for name in _DECODERS if name in manifest.graphs)
