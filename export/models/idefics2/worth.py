"""How finely Idefics2's matrices are stored in quantised folders."""

from __future__ import annotations

from ....graphs.contract import ModelSizes
from ..family import Worth


def worth(weight: str, sizes: ModelSizes) -> Worth:
    """4 bits but where they would change the trained demo model's answers most for what they save (benchmarks/sensitivity.py),
    down to what 5.2 GB hold: encoder, connector but for the perceiver's MLPs, first and last decoder layer, values. All
    three have small groups instead where queries, keys and values are one.
    """
    if weight.startswith("connector."):
        return Worth(costly=".perceiver_resampler.layers." not in weight or ".mlp." not in weight)
    outer = weight.startswith(tuple(f"text_model.layers.{layer}." for layer in (0, sizes.num_layers - 1)))
    head = weight.startswith("lm_head.")
    return Worth(
        always=head or weight.startswith("vision_model."),
        costly=outer or ".v_proj." in weight,
        delicate=head or outer,
        fine=".qkv_proj." in weight,
    )
