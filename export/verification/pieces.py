"""Pieces of a graph, each given the reference's own input and compared alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from ...runtime.parallel import begin, result_of
from ..heap import trim
from .cut import Cut
from .difference import Difference
from .graphs import opened, read_weights
from .reference import COPIES, Reference

Compute = Callable[..., Tensor | tuple[Tensor, Tensor]]
"""(model, *values) → what a piece gives; and where the sizes of its channels are not to be taken from that, what has them."""
Layer = Callable[[Any], Any]
"""Takes a model and gives one of its layers."""


@dataclass(frozen=True)
class Pieces:
    """A graph whose pieces are compared one after another."""

    cut: Cut
    reference: Reference
    call: dict[str, Tensor]
    """Inputs of the graph that every piece gets."""

    def compare(self, what: str, given: dict[str, Tensor], output: str, compute: Compute) -> tuple[Difference, Tensor]:
        """The piece from values of the graph to another, beside compute(model, *values); with the truth about it."""
        part = self.cut.part(list(self.call | given), [output])
        part.graph.name = self.cut.graph
        types = {value.name: value.dtype for value in part.graph.inputs}
        halves = {name: x.to(torch.float16 if types[name] == ir.DataType.FLOAT16 else torch.float32) for name, x in given.items()}
        weights = begin(partial(read_weights, part))
        with self.reference.memory.keeping():
            truth, own = self.reference.both(compute, *halves.values(), copies=COPIES)
            if self.cut.graph in self.reference.checks:
                self.reference.checks[self.cut.graph].compare(result_of(weights), self.reference.source)
        (truth, like), (own, _) = (found if isinstance(found, tuple) else (found, None) for found in (truth, own))
        trim()
        (found,) = opened(part, result_of(weights)).run(**(self.call | halves))
        return self.reference.compare(part, what, found, truth, own, like), truth


def encoder(pieces: Pieces, x: Tensor, borders: list[str]) -> Generator[Difference, None, Tensor]:
    """The layers of an encoder of images, between borders, from what enters the first; returns the truth about what leaves the
    last. CLIP's and SigLIP's have the same names.
    """
    for index, (border, following) in enumerate(itertools.pairwise(borders)):

        def layer(model: Any, index: int = index) -> Any:
            return model.model.vision_model.encoder.layers[index]

        def attend(model: Any, x: Tensor, layer: Any = layer) -> Tensor:
            attended = layer(model).self_attn(hidden_states=layer(model).layer_norm1(x), attention_mask=None)[0]
            return x + attended

        def feed(model: Any, x: Tensor, layer: Any = layer) -> Tensor:
            fed: Tensor = x + layer(model).mlp(layer(model).layer_norm2(x))
            return fed

        middle = pieces.cut.input_of(f"vision_model.encoder.layers.{index}.layer_norm2.weight")
        found, x = pieces.compare(f"layer {index}, attention", {border: x}, middle, attend)
        yield found
        found, x = pieces.compare(f"layer {index}, MLP", {middle: x}, following, feed)
        yield found
    return x


def swiglu(
    pieces: Pieces,
    what: str,
    at: str,
    border: str,
    x: Tensor,
    following: str,
    layer: Layer,
    gate_of: Tensor | None = None,
    shrink: float = 1,
) -> tuple[list[Difference], Tensor]:
    """A residual SwiGLU in two pieces, of two matrices and of one; with the truth about its result.

    Args:
        gate_of: the parameter whose tanh its result is multiplied with before it is added.
        shrink: what the graph multiplies its middle with, and divides its result by.
    """

    def gate(model: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """An activation is right to a share of what it reads: of a large negative number it leaves nothing but rounding. So sizes
        are those of the product without it.
        """
        mlp, normed = layer(model).mlp, layer(model).post_attention_layernorm(x)
        opening, up = mlp.gate_proj(normed), mlp.up_proj(normed)
        return mlp.act_fn(opening) * up * shrink, opening * up * shrink

    def down(model: Any, x: Tensor, gated: Tensor) -> Tensor:
        fed: Tensor = layer(model).mlp.down_proj(gated / shrink)
        return x + (fed if gate_of is None else gate_of.to(x.dtype).tanh() * fed)

    middle = pieces.cut.input_of(f"{at}.mlp.down_proj.weight")
    first, gated = pieces.compare(f"{what}, gate", {border: x}, middle, gate)
    second, result = pieces.compare(f"{what}, down", {border: x, middle: gated}, following, down)
    return [first, second], result
