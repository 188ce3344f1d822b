"""IDEFICS' prompts: tokens, and images that they see."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ....graphs.contract import Manifest, key_value_names
from ...models.idefics.reference import decoded, places, seen_pictures
from ..difference import Difference
from ..example import Example
from ..graphs import load_graph, opened_folder
from ..prompts import Prompts
from ..reference import COPIES, Reference
from .cross import key_or_value


def read_prompts(
    folder: Path, manifest: Manifest, reference: Reference, example: Example, images: list[Tensor]
) -> Generator[Difference, None, Prompts]:
    """The first prompt has all images, the others none: zeros in their place, which nothing sees."""
    sizes, count = manifest.model, len(images)
    seen = [seen_pictures(places(ids, list(range(count)), sizes), count) for ids in example.prompts]
    shown = torch.stack([torch.cat(images), *[torch.zeros_like(torch.cat(images))] * (len(seen) - 1)])
    names, cross = key_value_names(sizes.num_cross_layers, "cross"), {}
    graph = load_graph(folder, "cross")
    cross_graph = opened_folder(folder, "cross", manifest.dtype)
    outputs = cross_graph.run(image_features=shown)
    for name, found in zip(names, outputs, strict=True):
        truth, own = reference.both(key_or_value(name), shown[:1], copies=COPIES)
        yield reference.compare(graph, name, found[:1], truth, own)
        cross[name] = torch.cat([truth.to(shown.dtype), torch.from_numpy(found[1:]).to(shown.dtype)])
    graph, embeds = load_graph(folder, "embedding"), []
    embedding = opened_folder(folder, "embedding", manifest.dtype)
    for number, prompt in enumerate(example.prompts):
        actual = embedding.run(input_ids=prompt[None])[0][0]
        truth, own = reference.both(lambda model, prompt=prompt: model.model.embed_tokens(prompt))
        embeds.append(own)
        yield reference.compare(graph, f"inputs_embeds of prompt {number + 1}", actual, truth, own)
    features = shown.unflatten(1, (count, -1))

    def logits(model: Any, x: Tensor, row: int) -> Tensor:
        own = seen[row]
        longer = torch.cat([own, own[-1:].expand(x.shape[1] - len(own), -1)])  # new tokens see what the last one sees
        found: Tensor = model.lm_head(decoded(model, x, features[row : row + 1], longer[None]))
        return found

    def more(step: int) -> dict[str, Tensor]:
        mask = torch.stack([own[-1:] for own in seen]) if step else pad_sequence(seen, batch_first=True)
        return {"image_attention_mask": mask} | cross

    return Prompts(embeds, reference.own.model.embed_tokens(example.answers), logits, more)
