"""Which model a checkpoint is, and whether its tensors are that model's."""

from __future__ import annotations

import math
from typing import Any

import torch

from ...graphs.contract import AttentionFlavour, ModelSizes
from ...graphs.operators import FUSED_HEAD_MULTIPLE
from ..errors import CheckpointError, reason
from ..models.fake import TORCH_DTYPES, fake_mode, fake_model
from ..models.family import Shapes
from ..models.json_file import read_json
from ..models.known import FAMILIES, family_of
from .checkpoint import Checkpoint


def load_config(checkpoint: Checkpoint) -> Any:
    """The checkpoint's config, transformers' own; CheckpointError names what no graph can express."""
    raw = read_json(checkpoint.folder / "config.json")
    if not isinstance(raw, dict) or "model_type" not in raw:
        raise CheckpointError(f"{checkpoint.source}'s config.json has no model_type. Give an Idefics2 or IDEFICS checkpoint.")
    kind = raw["model_type"]
    if not isinstance(kind, str) or kind not in FAMILIES:
        known = " and ".join(map(repr, FAMILIES))
        raise CheckpointError(f"{checkpoint.source} is a {kind!r:.60} model. Only {known} can be exported.")
    return FAMILIES[kind].load(raw, checkpoint.folder, checkpoint.source, len(checkpoint.tensors))


def choose_attention(head_dim: int, wanted: AttentionFlavour | None) -> tuple[AttentionFlavour, str | None]:
    """The decoder's flavour, and a line for the user where it is not what one would expect."""
    if head_dim % FUSED_HEAD_MULTIPLE == 0:
        return wanted or "fused", None
    if wanted == "fused":
        raise CheckpointError(
            f"Fused attention needs a head_dim that is a multiple of {FUSED_HEAD_MULTIPLE}, and this model's is {head_dim}. "
            "Export with --attention standard."
        )
    reason = f"head_dim {head_dim} is not a multiple of {FUSED_HEAD_MULTIPLE}"
    return "standard", None if wanted else f"Using standard attention: {reason}, which the fused operator needs."


def model_sizes(config: Any) -> tuple[ModelSizes, Shapes, dict[str, str]]:
    """The sizes of a model, the shape of each of its parameters, and its tied parameters (target → source)."""
    family = family_of(config)
    with fake_mode():
        try:
            model = fake_model(family.reference, config, "fp32")
        except Exception as error:
            raise CheckpointError(f"transformers cannot build this config: {reason(error)}. Check config.json.") from error
        tied = dict(model.all_tied_weights_keys)
        shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)}
    sizes = family.sizes(config, sum(math.prod(shape) for name, shape in shapes.items() if name not in tied))
    return sizes, shapes, tied


def match_tensors(checkpoint: Checkpoint, shapes: Shapes, tied: dict[str, str]) -> dict[str, str]:
    """The checkpoint's name of each of the model's parameters. CheckpointError names what is missing or misshapen."""
    partners = tied | {source: target for target, source in tied.items()}
    names = {name: name if name in checkpoint.tensors else partners.get(name, name) for name in shapes}
    missing = [name for name, stored in names.items() if stored not in checkpoint.tensors]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"{checkpoint.source} lacks the tensor {missing[0]}{others}. Give a whole checkpoint.")
    for name, stored in names.items():
        found = checkpoint.tensors[stored]
        if found.shape != shapes[name]:
            raise CheckpointError(
                f"{checkpoint.source}'s tensor {stored} has shape {list(found.shape)}, but config.json makes it "
                f"{list(shapes[name])}. Use the config and the weights of one model."
            )
        if found.dtype not in (torch.float64, *TORCH_DTYPES.values()):
            raise CheckpointError(f"{checkpoint.source}'s tensor {stored} is not fp64, fp32, fp16 or bf16. Convert it first.")
    return names
