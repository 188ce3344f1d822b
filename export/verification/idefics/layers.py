"""IDEFICS' graphs piece by piece."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask

from ....graphs.contract import GraphName, Manifest, key_value_names
from ...models.idefics.reference import places, seen_pictures
from ..cut import Cut
from ..difference import Difference
from ..example import Example
from ..graphs import load_graph, opened
from ..pieces import Pieces, encoder, swiglu
from ..reference import Reference
from .borders import (
    FEED_NORM,
    GATED,
    LAST_NORM,
    LATENTS_NORM,
    VISION_NORM,
    decoder_borders,
    decoder_layers,
    encoder_end,
)
from .cross import key_or_value
from .seeing import whole_prompt


def of_inputs(folder: Path, manifest: Manifest, reference: Reference, example: Example) -> Iterator[Difference]:
    """Pieces of the vision graph, keys and values of each gated layer, and the embedding graph."""
    image = example.images[1]
    yield from _vision(Pieces(Cut.open(folder, "vision"), reference, {"pixel_values": image[None]}), image[None])
    pieces, features = Pieces(Cut.open(folder, "cross"), reference, {}), _features(manifest)
    for name in key_value_names(manifest.model.num_cross_layers, "cross"):
        yield pieces.compare(name, {"image_features": features}, name, key_or_value(name))[0]
    graph, prompt = load_graph(folder, "embedding"), example.prompts[0]
    (found,) = opened(load_graph(folder, "embedding")).run(input_ids=prompt[None])
    truth, own = reference.both(lambda model: model.model.embed_tokens(prompt)[None])
    yield reference.compare(graph, "tokens", found, truth, own)


def of_decoder(folder: Path, name: GraphName, manifest: Manifest, reference: Reference, example: Example) -> Iterator[Difference]:
    """Pieces of a decoder, given the embeddings of the example's first prompt and made-up images."""
    sizes, features, prompt = manifest.model, _features(manifest), example.prompts[0]
    half = torch.float16 if manifest.dtype == "fp16" else torch.float32
    seen = seen_pictures(places(prompt, [0, 1], sizes), 2)
    cross = {
        name: key_or_value(name)(reference.truth, features.to(half).double()).to(half)
        for name in key_value_names(sizes.num_cross_layers, "cross")
    }
    x = reference.truth.model.embed_tokens(prompt)[None]
    pieces = Pieces(Cut.open(folder, name), reference, whole_prompt(sizes, x.float(), seen, cross))
    borders = decoder_borders(pieces.cut, sizes)
    gathered = pieces.cut.read_by(pieces.cut.input_of("norm.weight"))
    layers = decoder_layers(sizes.num_layers, sizes.num_cross_layers)
    for layer, (border, following) in zip(layers, itertools.pairwise([*borders, gathered]), strict=True):
        if layer.startswith(GATED.format("")):
            differences, x = _look(pieces, layer, border, following, x, features.to(half), seen)
        else:
            differences, x = _attend(pieces, layer, border, following, x)
        yield from differences

    def head(model: Any, x: Tensor) -> Tensor:
        logits: Tensor = model.lm_head(model.model.norm(x))
        return logits

    yield pieces.compare("logits", {gathered: x}, "logits", head)[0]


def _features(manifest: Manifest) -> Tensor:
    """Of two images, one after another [1, image_rows, width]."""
    sizes = manifest.model
    return torch.randn(1, 2 * sizes.image_seq_len, sizes.vision_width, generator=torch.Generator().manual_seed(0))


def _vision(pieces: Pieces, pixels: Tensor) -> Iterator[Difference]:
    cut = pieces.cut
    borders = [*cut.borders(VISION_NORM), encoder_end(cut)]

    def patches(model: Any, pixels: Tensor) -> Tensor:
        vision = model.model.vision_model
        found: Tensor = vision.pre_layrnorm(vision.embeddings(pixels))
        return found

    found, x = pieces.compare("patches", {"pixel_values": pixels}, borders[0], patches)
    yield found
    x = yield from encoder(pieces, x, borders)
    if borders[-1] != "image_features":
        yield from _perceiver(pieces, borders[-1], x)


def _perceiver(pieces: Pieces, context_value: str, context: Tensor) -> Iterator[Difference]:
    cut = pieces.cut
    latents = pieces.reference.parameter("model.perceiver_resampler.latents")[None]
    last = cut.input_of(LAST_NORM)
    for index, (border, following) in enumerate(itertools.pairwise([*cut.borders(LATENTS_NORM), last])):

        def block(model: Any, index: int = index) -> Any:
            return model.model.perceiver_resampler.blocks[index]

        def attend(model: Any, latents: Tensor, context: Tensor, block: Any = block) -> Tensor:
            attended: Tensor = latents + block(model)[0](context, latents)
            return attended

        def feed(model: Any, x: Tensor, block: Any = block) -> Tensor:
            fed: Tensor = x + block(model)[1](x)
            return fed

        middle, given = cut.input_of(FEED_NORM.format(index)), {border: latents, context_value: context}
        found, x = pieces.compare(f"perceiver {index}, attention", given, middle, attend)
        yield found
        found, latents = pieces.compare(f"perceiver {index}, MLP", {middle: x}, following, feed)
        yield found

    def norm(model: Any, x: Tensor) -> Tensor:
        normed: Tensor = model.model.perceiver_resampler.layer_norm(x)
        return normed

    yield pieces.compare("image_features", {last: latents}, "image_features", norm)[0]


def _look(
    pieces: Pieces, name: str, border: str, following: str, x: Tensor, features: Tensor, seen: Tensor
) -> tuple[list[Difference], Tensor]:
    """A gated layer; with the truth about its result."""
    index = int(name.rpartition(".")[2])
    attention_gate, feed_gate = (pieces.reference.parameter(f"model.{name}.alpha_{kind}") for kind in ("cross_attn", "dense"))
    rows = features.shape[1] // seen.shape[1]

    def layer(model: Any) -> Any:
        return model.model.gated_cross_attn_layers[index]

    def look(model: Any, x: Tensor) -> Tensor:
        bias = torch.where(seen.repeat_interleave(rows, 1).bool(), x.new_zeros(()), torch.finfo(x.dtype).min)
        looked = layer(model).cross_attn(
            hidden_states=layer(model).input_layernorm(x),
            key_value_states=features.to(x.dtype).expand(len(x), -1, -1),
            attention_mask=bias.expand(len(x), 1, -1, -1),
        )[0]
        looked = looked.masked_fill((seen.sum(1) == 0)[None, :, None], 0.0)
        added: Tensor = x + attention_gate.to(x.dtype).tanh() * looked
        return added

    middle = pieces.cut.input_of(f"{name}.post_attention_layernorm.weight")
    found, x = pieces.compare(f"gated layer {index}, attention", {border: x}, middle, look)
    differences, x = swiglu(pieces, f"gated layer {index}", name, middle, x, following, layer, feed_gate)
    return [found, *differences], x


def _attend(pieces: Pieces, name: str, border: str, following: str, x: Tensor) -> tuple[list[Difference], Tensor]:
    """A layer of the text model; with the truth about its result."""
    index, positions = int(name.rpartition(".")[2]), torch.arange(x.shape[1])[None]

    def layer(model: Any) -> Any:
        return model.model.layers[index]

    def attend(model: Any, x: Tensor) -> Tensor:
        mask = create_causal_mask(
            config=model.config, inputs_embeds=x, attention_mask=None, past_key_values=None, position_ids=positions
        )
        attended = layer(model).self_attn(
            hidden_states=layer(model).input_layernorm(x), attention_mask=mask, position_ids=positions
        )[0]
        added: Tensor = x + attended
        return added

    middle = pieces.cut.input_of(f"{name}.post_attention_layernorm.weight")
    found, x = pieces.compare(f"layer {index}, attention", {border: x}, middle, attend)
    differences, x = swiglu(pieces, f"layer {index}", name, middle, x, following, layer)
    return [found, *differences], x
