"""Which of IDEFICS' parameters stand in which graph, and what the graphs have in the place of some."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ....graphs.contract import GraphName, ModelSizes
from ....graphs.head import padded_outputs
from ..family import Block, Rows, Shapes
from ..joined import is_of_the_other_form, joined_projection

TABLES = ("model.embed_tokens.weight", "lm_head.weight")
_MORE = ("model.embed_tokens.additional_embedding.weight", "lm_head.additional_fc.weight")
"""The additional tokens' rows, which the reference keeps apart."""
_TABLE, _HEAD = "model.embed_tokens.joined.weight", "lm_head.padded.weight"
_PLACES: tuple[tuple[GraphName | None, str], ...] = (
    (None, r"model\.vision_model\.post_layernorm\."),  # of what the reference pools, and nothing reads
    ("vision", r"model\.(vision_model|perceiver_resampler)\."),
    ("cross", r"model\.gated_cross_attn_layers\.\d+\.cross_attn\.(k_proj|v_proj|k_layer_norm)\."),
    ("decoder", r"model\.(gated_cross_attn_layers|layers|norm)\."),
    ("embedding", re.escape(_TABLE)),
    ("decoder", re.escape(_HEAD)),
)
"""Graphs, and the parameters that stand in each: the first that a name begins with counts."""


def made_of(shapes: Shapes, sizes: ModelSizes) -> dict[str, Rows | Block]:
    """The table and the padded head with the additional tokens, and the joined projections of the decoder's layers."""
    table, head = (tuple(name for name in pair if name in shapes) for pair in zip(TABLES, _MORE, strict=True))
    found: dict[str, Rows | Block] = {
        _TABLE: Rows(table, sizes.vocab_size),
        _HEAD: Rows(head, padded_outputs(sizes.vocab_size)),
    }
    for layer in range(sizes.num_layers):
        found |= joined_projection(f"model.layers.{layer}.self_attn", shapes)
    return found


def parameters(graph: GraphName, names: list[str], joined: bool) -> Iterator[str]:
    """Those of all `names` that a graph must have, and the tables that are computed."""
    graph = "decoder" if graph == "prompt" else graph
    for name in names:
        place = next((place for place, pattern in _PLACES if re.match(pattern, name)), None)
        if place == graph and not _stands_otherwise(name, joined):
            yield name
    if graph == "decoder":
        yield from ("cos", "sin")


def _stands_otherwise(name: str, joined: bool) -> bool:
    """Whether the decoder has another parameter in this one's place."""
    return name.startswith("model.layers.") and is_of_the_other_form(name, joined)


def parameter_of(weight: str) -> str:
    """The reference's name of a graph's weight."""
    return weight if weight.startswith("lm_head.") else f"model.{weight}"
