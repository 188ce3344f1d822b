"""The comparison of whole graphs: images, a ragged prompt and a few steps, with all of the folder's weights in memory."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...graphs.contract import GraphName, Manifest, key_value_names
from ..source.source_model import SourceModel
from .difference import Difference
from .example import STEPS, Example
from .graphs import load_graph, opened_folder
from .known import COMPARISONS
from .prompts import Prompts
from .reference import COPIES, Reference, decoders_of


@torch.no_grad()
def compare_whole(folder: Path, manifest: Manifest, source: SourceModel, unrounded: bool = False) -> Iterator[Difference]:
    """Every graph, and each decoder; `unrounded`: beside the checkpoint's numbers instead of a folder's integers."""
    example, reference = Example.for_model(manifest), Reference.of(folder, manifest, source, unrounded=unrounded)
    images = yield from _vision(folder, manifest, reference, example)
    prompts = yield from COMPARISONS[manifest.architecture].read_prompts(folder, manifest, reference, example, images)
    for name in decoders_of(manifest):
        reference = Reference.of(folder, manifest, source, name, unrounded) if name == "prompt" else reference
        yield from _decoder(folder, name, manifest, reference, prompts)


def _vision(
    folder: Path, manifest: Manifest, reference: Reference, example: Example
) -> Generator[Difference, None, list[Tensor]]:
    """The truth about each image's features, in the folder's type."""
    half = torch.float16 if manifest.dtype == "fp16" else torch.float32
    graph, images = load_graph(folder, "vision"), []
    encoder = opened_folder(folder, "vision", manifest.dtype)
    for number, image in enumerate(example.images):
        given = image[None].to(half)
        actual = encoder.run(pixel_values=given)[0]
        truth, own = reference.both(reference.source.family.image_features, given, copies=COPIES)
        images.append(truth[0].to(half))
        yield reference.compare(graph, f"image_features of image {number + 1}", actual, truth, own)
    return images


def _decoder(folder: Path, name: GraphName, manifest: Manifest, reference: Reference, prompts: Prompts) -> Iterator[Difference]:
    """A padded batch and its steps over one cache, beside each row read by the reference in one go."""
    sizes, graph, embeds, answered = manifest.model, load_graph(folder, name), prompts.embeds, prompts.answered
    lengths = np.array([len(e) for e in embeds])
    width, batch = int(lengths.max()), len(embeds)
    expected = [
        reference.both(lambda model, x, row=row: prompts.logits(model, x, row), whole[None], copies=COPIES)
        for row, whole in enumerate(map(torch.cat, zip(embeds, answered, strict=True)))
    ]
    shape = (batch, sizes.num_key_value_heads, width + STEPS, sizes.head_dim)
    cache = {key: np.zeros(shape, np.float32) for key in key_value_names(sizes.num_layers, "past_key_values")}
    x, positions = torch.nn.utils.rnn.pad_sequence(embeds, batch_first=True), np.broadcast_to(np.arange(width), (batch, width))
    decoder = opened_folder(folder, name, manifest.dtype)
    for step in range(STEPS + 1):
        mask = (np.arange(width + step) < (lengths + step)[:, None]).astype(np.int64)
        more = prompts.more(step)
        logits, *kv = decoder.run(inputs_embeds=x, attention_mask=mask, logit_positions=positions, **more, **cache)
        cache = dict(zip(cache, kv, strict=True))
        for row, (truth, own) in enumerate(expected):
            here = slice(0, int(lengths[row])) if step == 0 else slice(int(lengths[row]) + step - 1, int(lengths[row]) + step)
            what = f"logits of prompt {row + 1}" + (f", step {step}" if step else "")
            yield reference.compare(graph, what, logits[row, : here.stop - here.start], truth[0, here], own[:, here])
        x, positions = answered[:, step : step + 1], np.zeros((batch, 1), np.int64)
