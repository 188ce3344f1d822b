"""Idefics2's prompts: features merged among the tokens' embeddings."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....graphs.contract import Manifest
from ..difference import Difference
from ..example import Example
from ..graphs import load_graph, opened_folder
from ..prompts import Prompts
from ..reference import Reference


def read_prompts(
    folder: Path, manifest: Manifest, reference: Reference, example: Example, images: list[Tensor]
) -> Generator[Difference, None, Prompts]:
    graph, embeds, table = load_graph(folder, "embedding"), [], torch.cat(images)
    embedding = opened_folder(folder, "embedding", manifest.dtype)
    for number, prompt in enumerate(example.prompts):
        image = prompt == manifest.model.image_token_id
        rows = torch.where(image, image.cumsum(0) - 1, -1)
        actual = embedding.run(input_ids=prompt[None], image_features=table, feature_rows=rows[None])[0][0]
        truth, own = reference.both(lambda model, table, prompt=prompt, rows=rows: _merged(model, prompt, rows, table), table)
        embeds.append(own)
        yield reference.compare(graph, f"inputs_embeds of prompt {number + 1}", actual, truth, own)
    answered = reference.own.model.text_model.embed_tokens(example.answers)
    return Prompts(embeds, answered, _logits, lambda _: {})


def _merged(model: Any, prompt: Tensor, rows: Tensor, table: Tensor) -> Tensor:
    embeds: Tensor = model.model.text_model.embed_tokens(prompt)
    embeds[rows >= 0] = table[rows[rows >= 0]].to(embeds.dtype)
    return embeds


def _logits(model: Any, embeds: Tensor, _: int) -> Tensor:
    logits: Tensor = model.lm_head(model.model.text_model(inputs_embeds=embeds).last_hidden_state)
    return logits
