"""Which of Idefics2's parameters stand in which graph, and what the graphs have in the place of some."""

from __future__ import annotations

from collections.abc import Iterator

from ....graphs.contract import GraphName, ModelSizes
from ....graphs.head import padded_outputs
from ....graphs.idefics2.vision import projection_blocks
from ..family import Block, Rows, Shapes
from ..joined import is_of_the_other_form, joined_projection

TABLES = ("model.text_model.embed_tokens.weight", "lm_head.weight")
PROJECTION = "model.connector.modality_projection"
_STARTS: dict[GraphName, tuple[str, ...]] = {
    "vision": ("model.vision_model.", "model.connector."),
    "embedding": TABLES[:1],
    "decoder": ("model.text_model.", "lm_head."),
}


def made_of(shapes: Shapes, sizes: ModelSizes) -> dict[str, Rows | Block]:
    """The blocks of the connector's projection, the padded head, and the joined projections of the decoder's layers."""
    width, inputs = shapes[f"{PROJECTION}.gate_proj.weight"]
    outputs = shapes[f"{PROJECTION}.down_proj.weight"][0]
    found: dict[str, Rows | Block] = {}
    for index, block in enumerate(projection_blocks(width)):
        for kind, rows, columns in (
            ("gate", block, range(inputs)),
            ("up", block, range(inputs)),
            ("down", range(outputs), block),
        ):
            name = f"{PROJECTION}.{kind}_proj.weight"
            found[f"{PROJECTION}.blocks.{index}.{kind}_proj.weight"] = Block(name, rows, columns)
    found["lm_head.padded.weight"] = Rows(TABLES[1:], padded_outputs(sizes.vocab_size))
    for layer in range(sizes.num_layers):
        found |= joined_projection(f"model.text_model.layers.{layer}.self_attn", shapes)
    return found


def parameters(graph: GraphName, names: list[str], joined: bool) -> Iterator[str]:
    """Those of all `names` that a graph must have, and the tables that are computed."""
    graph = "decoder" if graph == "prompt" else graph
    for name in names:
        if name.startswith(_STARTS[graph]) and (graph == "embedding" or not _stands_otherwise(name, joined)):
            yield name
    yield from {"vision": ("positions",), "decoder": ("cos", "sin")}.get(graph, ())


def _stands_otherwise(name: str, joined: bool) -> bool:
    """Whether a graph has another parameter, or another graph has this one."""
    if name.startswith("model.text_model."):
        return name == TABLES[0] or is_of_the_other_form(name, joined)
    return name == TABLES[1] or (name.startswith(f"{PROJECTION}.") and not name.startswith(f"{PROJECTION}.blocks."))


def parameter_of(weight: str) -> str:
    """The reference's name of a graph's weight."""
    if weight.startswith("lm_head."):
        return weight
    return f"model.text_model.{weight}" if weight.startswith("embed_") else f"model.{weight}"
