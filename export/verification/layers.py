"""The comparison piece by piece: every layer's attention and products, each given the reference's own input.

A difference shows in the piece that makes it, undiluted by what comes before and after, and the weights of one piece are all
that is held: no more than three matrices of a decoder's layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from ...graphs.contract import GraphName, Manifest
from ..heap import trim
from ..source.source_model import SourceModel
from .cut import LAST_VISION_NORM, TEXT_NORM, VISION_NORM, Cut, whole_prompt
from .difference import Difference
from .example import Example
from .graphs import load_graph, opened, run
from .reference import COPIES, Reference, patch_grid

_Compute = Callable[..., Tensor]
_Layer = Callable[[Any], Any]
"""Takes a model and gives one of its layers."""


@torch.no_grad()
def compare_layers(folder: Path, manifest: Manifest, source: SourceModel, unrounded: bool = False) -> Iterator[Difference]:
    """Every piece of every graph; `unrounded`: beside the checkpoint's numbers instead of a folder's integers."""
    example, reference = Example.for_model(manifest), Reference.of(folder, manifest, source, unrounded=unrounded)
    image = example.images[1]
    yield from _vision(_Pieces(Cut.open(folder, "vision"), reference, {"pixel_values": image[None]}), image[None])
    prompt = example.prompts[0]
    yield from _embedding(folder, manifest, reference, prompt)
    decoders: tuple[GraphName, ...] = ("decoder", "prompt")
    for name in decoders:
        if name in manifest.graphs:
            reference = Reference.of(folder, manifest, source, name, unrounded) if name == "prompt" else reference
            x = reference.truth.model.text_model.embed_tokens(prompt)[None]
            yield from _decoder(_Pieces(Cut.open(folder, name), reference, whole_prompt(manifest.model, x.float())), x)


@dataclass(frozen=True)
class _Pieces:
    """A graph whose pieces are compared one after another."""

    cut: Cut
    reference: Reference
    call: dict[str, Tensor]
    """Inputs of the graph that every piece gets."""

    def compare(
        self, what: str, given: dict[str, Tensor], output: str, compute: _Compute, like: _Compute | None = None
    ) -> tuple[Difference, Tensor]:
        """The piece from values of the graph to another, beside compute(model, *values); with the truth about it.

        `like` computes what the sizes of the output's channels are taken from, where they are not its own.
        """
        part = self.cut.part(list(self.call | given), [output])
        types = {value.name: value.dtype for value in part.graph.inputs}
        halves = {name: x.to(torch.float16 if types[name] == ir.DataType.FLOAT16 else torch.float32) for name, x in given.items()}
        truth, own = self.reference.both(compute, *halves.values(), copies=COPIES)
        part.graph.name = self.cut.graph
        trim()
        with opened(part) as session:
            needed = {spec.name for spec in session.get_inputs()}
            feeds = {name: x for name, x in (self.call | halves).items() if name in needed}
            (found,) = run(session, **feeds)
        sizes = like(self.reference.truth, *(x.double() for x in halves.values())) if like is not None else None
        return self.reference.compare(part, what, found, truth, own, sizes), truth


def _vision(pieces: _Pieces, pixels: Tensor) -> Iterator[Difference]:
    cut, encoder = pieces.cut, pieces.reference.truth.model.vision_model.encoder
    borders = [*cut.borders(VISION_NORM), cut.input_of(LAST_VISION_NORM)]
    found, x = pieces.compare(
        "patches",
        {"pixel_values": pixels},
        borders[0],
        lambda model, pixels: model.model.vision_model.embeddings(pixels, patch_grid(model, pixels)),
    )
    yield found
    for index, (border, following) in enumerate(itertools.pairwise(borders)):

        def layer(model: Any, index: int = index) -> Any:
            return model.model.vision_model.encoder.layers[index]

        def attend(model: Any, x: Tensor, layer: Any = layer) -> Tensor:
            attended = layer(model).self_attn(hidden_states=layer(model).layer_norm1(x), attention_mask=None)[0]
            return x + attended

        def feed(model: Any, x: Tensor, layer: Any = layer) -> Tensor:
            fed: Tensor = x + layer(model).mlp(layer(model).layer_norm2(x))
            return fed

        middle = cut.input_of(f"vision_model.encoder.layers.{index}.layer_norm2.weight")
        found, x = pieces.compare(f"layer {index}, attention", {border: x}, middle, attend)
        yield found
        found, x = pieces.compare(f"layer {index}, MLP", {middle: x}, following, feed)
        yield found
    assert len(borders) == len(encoder.layers) + 1
    yield from _connector(pieces, borders[-1], x)


def _connector(pieces: _Pieces, border: str, x: Tensor) -> Iterator[Difference]:
    cut, at = pieces.cut, "connector.perceiver_resampler"

    def project(model: Any, x: Tensor) -> Tensor:
        projected: Tensor = model.model.connector.modality_projection(model.model.vision_model.post_layernorm(x))
        return projected

    context_value = cut.input_of(f"{at}.layers.0.input_context_norm.weight")
    found, context = pieces.compare("projection", {border: x}, context_value, project)
    yield found
    latents = pieces.reference.parameter(f"model.{at}.latents")[None]
    for index, border in enumerate(borders := cut.borders(f"{at}.layers.{{}}.input_latents_norm.weight")):

        def layer(model: Any, index: int = index) -> Any:
            return model.model.connector.perceiver_resampler.layers[index]

        def attend(model: Any, latents: Tensor, context: Tensor, layer: Any = layer) -> Tensor:
            own = layer(model)
            attended = own.self_attn(latents=own.input_latents_norm(latents), context=own.input_context_norm(context))[0]
            return latents + attended

        middle = cut.input_of(f"{at}.layers.{index}.post_attention_layernorm.weight")
        given = {border: latents, context_value: context}
        found, x = pieces.compare(f"perceiver {index}, attention", given, middle, attend)
        yield found
        following = borders[index + 1] if index + 1 < len(borders) else cut.input_of(f"{at}.norm.weight")
        differences, latents = _gated(pieces, f"perceiver {index}", f"{at}.layers.{index}", middle, x, following, layer)
        yield from differences

    def norm(model: Any, x: Tensor) -> Tensor:
        normed: Tensor = model.model.connector.perceiver_resampler.norm(x)
        return normed

    yield pieces.compare("image_features", {following: latents}, "image_features", norm)[0]


def _gated(
    pieces: _Pieces, what: str, at: str, border: str, x: Tensor, following: str, layer: _Layer
) -> tuple[list[Difference], Tensor]:
    """A residual SwiGLU in two pieces, of two matrices and of one; with the truth about its result."""

    def gate(model: Any, x: Tensor) -> Tensor:
        mlp, normed = layer(model).mlp, layer(model).post_attention_layernorm(x)
        gated: Tensor = mlp.act_fn(mlp.gate_proj(normed)) * mlp.up_proj(normed)
        return gated

    def ungated(model: Any, x: Tensor) -> Tensor:
        """An activation is right to a share of what it reads: of a large negative number it leaves nothing but rounding."""
        mlp, normed = layer(model).mlp, layer(model).post_attention_layernorm(x)
        product: Tensor = mlp.gate_proj(normed) * mlp.up_proj(normed)
        return product

    def down(model: Any, x: Tensor, gated: Tensor) -> Tensor:
        added: Tensor = x + layer(model).mlp.down_proj(gated)
        return added

    middle = pieces.cut.input_of(f"{at}.mlp.down_proj.weight")
    first, gated = pieces.compare(f"{what}, gate", {border: x}, middle, gate, ungated)
    second, result = pieces.compare(f"{what}, down", {border: x, middle: gated}, following, down)
    return [first, second], result


def _embedding(folder: Path, manifest: Manifest, reference: Reference, prompt: Tensor) -> Iterator[Difference]:
    sizes, part = manifest.model, load_graph(folder, "embedding")
    features = torch.zeros(0, sizes.hidden_size)
    with opened(part) as session:
        inputs = {"input_ids": prompt[None], "image_features": features, "feature_rows": torch.full((1, len(prompt)), -1)}
        (found,) = run(session, **inputs)
    truth, own = reference.both(lambda model: model.model.text_model.embed_tokens(prompt)[None])
    yield reference.compare(part, "tokens", found, truth, own)


def _decoder(pieces: _Pieces, x: Tensor) -> Iterator[Difference]:
    cut, count = pieces.cut, x.shape[1]
    borders = cut.borders(TEXT_NORM)
    positions = torch.arange(count)[None]
    # The graph gathers the wanted positions before its last norm.
    gathered = cut.read_by(cut.input_of("text_model.norm.weight"))
    for index, border in enumerate(borders):

        def layer(model: Any, index: int = index) -> Any:
            return model.model.text_model.layers[index]

        def attend(model: Any, x: Tensor, layer: Any = layer) -> Tensor:
            text = model.model.text_model
            attended = layer(model).self_attn(
                hidden_states=layer(model).input_layernorm(x),
                position_embeddings=text.rotary_emb(x, position_ids=positions),
                attention_mask=_mask(text.config, x, positions),
            )[0]
            return x + attended

        middle = cut.input_of(f"text_model.layers.{index}.post_attention_layernorm.weight")
        found, x = pieces.compare(f"layer {index}, attention", {border: x}, middle, attend)
        yield found
        following = borders[index + 1] if index + 1 < len(borders) else gathered
        differences, x = _gated(pieces, f"layer {index}", f"text_model.layers.{index}", middle, x, following, layer)
        yield from differences

    def head(model: Any, x: Tensor) -> Tensor:
        logits: Tensor = model.lm_head(model.model.text_model.norm(x))
        return logits

    yield pieces.compare("logits", {gathered: x}, "logits", head)[0]


def _mask(config: Any, x: Tensor, positions: Tensor) -> Tensor | None:
    """As the reference makes it."""
    make = create_causal_mask if config.sliding_window is None else create_sliding_window_causal_mask
    mask: Tensor | None = make(
        config=config, inputs_embeds=x, attention_mask=None, past_key_values=None, position_ids=positions
    )  # fmt: skip
    return mask
