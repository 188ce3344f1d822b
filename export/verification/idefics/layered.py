"""A folder of IDEFICS, run a layer at a time."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ....graphs.contract import GraphName, Manifest
from ...models.idefics.reference import seen_pictures
from ..cut import Cut
from .borders import VISION_NORM, decoder_borders, encoder_end
from .seeing import cross, whole_prompt


def features(folder: Path, _: Manifest, pixels: Tensor) -> Tensor:
    graph = Cut.open(folder, "vision")
    borders = dict.fromkeys([*graph.borders(VISION_NORM), encoder_end(graph), "image_features"])
    return graph.run_through(["pixel_values", *borders], pixels, {"pixel_values": pixels})


def logits(folder: Path, reader: GraphName, manifest: Manifest, ids: Tensor, features: Tensor, places: Tensor) -> Tensor:
    x = torch.from_numpy(Cut.open(folder, "embedding").run({"input_ids": ids[None]}, ["inputs_embeds"])[0])
    graph, sizes = Cut.open(folder, reader), manifest.model
    call = whole_prompt(sizes, x, seen_pictures(places, len(features)), cross(folder, sizes, features.flatten(0, 1)[None]))
    return graph.run_through([*decoder_borders(graph, sizes), "logits"], x, call)[0]
