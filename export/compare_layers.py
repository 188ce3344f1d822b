"""The comparison for models that do not fit in memory: each layer of each graph cut out and run beside the reference's layer.

Both sides get the reference's input, so a difference shows in the layer that makes it, and only one layer's weights are held.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from transformers import Idefics2ForConditionalGeneration
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from ..graphs.contract import GraphName, Manifest
from .compare import Example, position_ids
from .cut import LAST_VISION_NORM, TEXT_NORM, VISION_NORM, Cut, whole_prompt
from .source_model import SourceModel
from .streamed import streamed_reference
from .trace import rotary_tables
from .verify import Difference, Verification, read_manifest


def compare_layers(folder: Path, source: SourceModel) -> Verification:
    """Every layer of the three graphs, one at a time."""
    manifest = read_manifest(folder)
    example, reference = Example.for_model(manifest), streamed_reference(source, rounded=manifest.dtype == "bf16")
    with torch.no_grad():
        vision = list(_compare_vision(folder, manifest, reference, example.images[1]))
        text = list(_compare_text(folder, manifest, reference, example.prompts[0]))
    return Verification([*vision, *text])


def _compare_vision(
    folder: Path, manifest: Manifest, reference: Idefics2ForConditionalGeneration, image: Tensor
) -> Iterator[Difference]:
    graph, precision = Cut.open(folder, "vision"), manifest.precision["vision"]
    borders = [*graph.borders(VISION_NORM), graph.input_of(LAST_VISION_NORM)]
    patch = manifest.model.patch_size
    grid = torch.ones(1, image.shape[1] // patch, image.shape[2] // patch, dtype=torch.bool)
    inputs = {"pixel_values": image[None], "position_ids": position_ids(image, manifest)}

    encoder = reference.model.vision_model
    x = encoder.embeddings(image[None], grid)
    yield Difference.between("vision", "patches", graph.run(inputs, [borders[0]])[0], x.numpy(), precision)
    for index, (layer, (border, following)) in enumerate(zip(encoder.encoder.layers, itertools.pairwise(borders), strict=True)):
        expected = layer(x, None)
        actual = graph.run({**inputs, border: x}, [following])[0]
        yield Difference.between("vision", f"layer {index}", actual, expected.numpy(), precision)
        x = expected
    expected = reference.model.connector(encoder.post_layernorm(x), grid.reshape(1, -1))
    actual = graph.run({**inputs, borders[-1]: x}, ["image_features"])[0]
    yield Difference.between("vision", "connector", actual, expected.numpy(), precision)


def _compare_text(
    folder: Path, manifest: Manifest, reference: Idefics2ForConditionalGeneration, prompt: Tensor
) -> Iterator[Difference]:
    config = reference.config.text_config
    sizes, count = manifest.model, len(prompt)
    text = reference.model.text_model
    x = text.embed_tokens(prompt)[None]
    inputs = {
        "input_ids": prompt[None],
        "image_features": torch.zeros(0, sizes.hidden_size),
        "feature_rows": torch.full((1, count), -1),
    }
    embedded = Cut.open(folder, "embedding").run(inputs, ["inputs_embeds"])[0]
    yield Difference.between("embedding", "tokens", embedded, x.numpy(), manifest.precision["embedding"])

    names: tuple[GraphName, ...] = ("decoder", "prompt")
    cuts = {name: Cut.open(folder, name) for name in names if name in manifest.graphs}
    borders = {name: [*cut.borders(TEXT_NORM), "logits"] for name, cut in cuts.items()}
    cos, sin = (torch.cat([table[:count]] * 2, 1)[None] for table in rotary_tables(reference.config))
    if manifest.dtype == "bf16":
        cos, sin = cos.bfloat16().float(), sin.bfloat16().float()
    make_mask = create_causal_mask if config.sliding_window is None else create_sliding_window_causal_mask
    positions = torch.arange(count)[None]
    mask = make_mask(
        config=text.config,
        inputs_embeds=x,
        attention_mask=None,
        past_key_values=None,
        position_ids=positions,
    )
    call = whole_prompt(sizes, x)
    for index, layer in enumerate(text.layers):
        x, given = layer(x, attention_mask=mask, position_embeddings=(cos, sin), position_ids=positions), x
        last = index + 1 == sizes.num_layers
        # The last layer, the norm and the head together: the graph gathers the wanted positions between them.
        expected, what = (reference.lm_head(text.norm(x)), "logits") if last else (x, f"layer {index}")
        for name, cut in cuts.items():
            border, following = borders[name][index : index + 2]
            actual = cut.run({**call, border: given}, [following])[0]
            yield Difference.between(name, what, actual, expected.numpy(), manifest.precision[name])
