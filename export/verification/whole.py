"""The comparison of whole graphs: images, a ragged prompt and a few steps, with all of the folder's weights in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...graphs.contract import GraphName, Manifest, key_value_names
from ..source.source_model import SourceModel
from .difference import Difference
from .example import STEPS, Example
from .graphs import load_graph, opened_folder, run
from .reference import COPIES, Reference, features


@torch.no_grad()
def compare_whole(folder: Path, manifest: Manifest, source: SourceModel, unrounded: bool = False) -> Iterator[Difference]:
    """Vision, embedding, and each decoder; `unrounded`: beside the checkpoint's numbers instead of a folder's integers."""
    example, reference = Example.for_model(manifest), Reference.of(folder, manifest, source, unrounded=unrounded)
    half = torch.float16 if manifest.dtype == "fp16" else torch.float32
    graph, images = load_graph(folder, "vision"), []
    with opened_folder(folder, "vision", manifest.dtype) as session:
        for number, image in enumerate(example.images):
            given = image[None].to(half)
            actual = run(session, pixel_values=given)[0]
            truth, own = reference.both(features, given, copies=COPIES)
            images.append(truth[0].to(half))
            yield reference.compare(graph, f"image_features of image {number + 1}", actual, truth, own)
    graph, embeds, table = load_graph(folder, "embedding"), [], torch.cat(images)
    with opened_folder(folder, "embedding", manifest.dtype) as session:
        for number, prompt in enumerate(example.prompts):
            image = prompt == manifest.model.image_token_id
            rows = torch.where(image, image.cumsum(0) - 1, -1)
            actual = run(session, input_ids=prompt[None], image_features=table, feature_rows=rows[None])[0][0]
            truth, own = reference.both(lambda model, table, prompt=prompt, rows=rows: _merged(model, prompt, rows, table), table)
            embeds.append(own)
            yield reference.compare(graph, f"inputs_embeds of prompt {number + 1}", actual, truth, own)
    decoders: tuple[GraphName, ...] = ("decoder", "prompt")
    for name in decoders:
        if name in manifest.graphs:
            reference = Reference.of(folder, manifest, source, name, unrounded) if name == "prompt" else reference
            yield from _decoder(folder, name, manifest, reference, embeds, example.answers)


def _merged(model: Any, prompt: Tensor, rows: Tensor, table: Tensor) -> Tensor:
    embeds: Tensor = model.model.text_model.embed_tokens(prompt)
    embeds[rows >= 0] = table[rows[rows >= 0]].to(embeds.dtype)
    return embeds


def _decoder(
    folder: Path, name: GraphName, manifest: Manifest, reference: Reference, embeds: list[Tensor], answers: Tensor
) -> Iterator[Difference]:
    """A padded batch and its steps over one cache, beside each row read by the reference in one go."""
    sizes, graph = manifest.model, load_graph(folder, name)
    lengths = np.array([len(e) for e in embeds])
    width, batch = int(lengths.max()), len(embeds)
    answered = reference.own.model.text_model.embed_tokens(answers)
    expected = [
        reference.both(
            lambda model, x: model.lm_head(model.model.text_model(inputs_embeds=x).last_hidden_state), whole[None], copies=COPIES
        )
        for whole in map(torch.cat, zip(embeds, answered, strict=True))
    ]
    shape = (batch, sizes.num_key_value_heads, width + STEPS, sizes.head_dim)
    cache = {key: np.zeros(shape, np.float32) for key in key_value_names(sizes.num_layers, "past_key_values")}
    x, positions = torch.nn.utils.rnn.pad_sequence(embeds, batch_first=True), np.broadcast_to(np.arange(width), (batch, width))
    with opened_folder(folder, name, manifest.dtype) as session:
        for step in range(STEPS + 1):
            mask = (np.arange(width + step) < (lengths + step)[:, None]).astype(np.int64)
            logits, *kv = run(session, inputs_embeds=x, attention_mask=mask, logit_positions=positions, **cache)
            cache = dict(zip(cache, kv, strict=True))
            for row, (truth, own) in enumerate(expected):
                here = slice(0, int(lengths[row])) if step == 0 else slice(int(lengths[row]) + step - 1, int(lengths[row]) + step)
                what = f"logits of prompt {row + 1}" + (f", step {step}" if step else "")
                yield reference.compare(graph, what, logits[row, : here.stop - here.start], truth[0, here], own[:, here])
            x, positions = answered[:, step : step + 1], np.zeros((batch, 1), np.int64)
