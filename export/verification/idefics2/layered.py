"""A folder of Idefics2, run a layer at a time."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ....graphs.contract import GraphName, Manifest
from ..cut import Cut, whole_prompt
from .borders import LAST_VISION_NORM, TEXT_NORM, VISION_NORM


def features(folder: Path, _: Manifest, pixels: Tensor) -> Tensor:
    graph = Cut.open(folder, "vision")
    borders = [*graph.borders(VISION_NORM), graph.input_of(LAST_VISION_NORM)]
    return graph.run_through(["pixel_values", *borders, "image_features"], pixels, {"pixel_values": pixels})


def logits(folder: Path, reader: GraphName, manifest: Manifest, ids: Tensor, features: Tensor, places: Tensor) -> Tensor:
    inputs = {"input_ids": ids[None], "image_features": features.flatten(0, 1), "feature_rows": places[None]}
    x = torch.from_numpy(Cut.open(folder, "embedding").run(inputs, ["inputs_embeds"])[0])
    graph = Cut.open(folder, reader)
    return graph.run_through([*graph.borders(TEXT_NORM), "logits"], x, whole_prompt(manifest.model, x))[0]
