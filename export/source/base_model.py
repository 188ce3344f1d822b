"""The base model of a folder that holds an adapter, as transformers finds it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ..errors import CheckpointError
from .adapter_config import AdapterConfig
from .adapter_tensors import weights_file
from .checkpoint import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Checkpoint


def open_with_adapter(
    source: str | Path, revision: str | None = None, adapter: Path | None = None
) -> tuple[Checkpoint, Checkpoint | None, str | None]:
    """A checkpoint, the adapter to merge into it, and a line for the user where the adapter was not named.

    `source` may be an adapter's folder or hub id, whose adapter_config.json names the base model; a whole checkpoint with an
    adapter in its folder is merged with that. Raises CheckpointError if something is missing.
    """
    checkpoint = Checkpoint.open(source, revision)
    own = replace(checkpoint, tensors={})
    inside = not checkpoint.tensors or all((own.folder / name).is_file() for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS))
    if adapter is not None and inside and adapter.resolve() != own.folder.resolve():
        raise CheckpointError(f"{source} holds an adapter itself, beside {adapter}. Merge one of them with peft first.")
    if not checkpoint.tensors:
        base = _open_base(own)
        return base, own, f"{own.source} is an adapter: merging it into its base model, {base.source} ({base.folder})."
    if inside:
        return checkpoint, own, f"Merging the adapter that lies in {own.source}'s folder."
    return checkpoint, Checkpoint(adapter, adapter.resolve().name, None, {}) if adapter is not None else None, None


def _open_base(adapter: Checkpoint) -> Checkpoint:
    config = AdapterConfig.load(adapter.folder)  # and the weights, before a base model is downloaded for them
    weights_file(adapter.folder)
    name, revision = (config.raw.get(key) for key in ("base_model_name_or_path", "revision"))
    advice = f"Name its base model: export BASE --adapter {adapter.folder}"
    if not isinstance(name, str) or not name:
        raise CheckpointError(f"{adapter.source} is an adapter whose {ADAPTER_CONFIG} names no base model. {advice}.")
    beside = adapter.folder / name
    try:
        base = Checkpoint.open(beside if os.path.isdir(beside) and not os.path.isdir(name) else name, revision)  # noqa: PTH112
    except CheckpointError as error:
        raise CheckpointError(f"{adapter.source} is an adapter whose base model cannot be opened: {error} {advice}.") from error
    if not base.tensors:
        raise CheckpointError(
            f"{adapter.source} is an adapter of {name}, which is an adapter itself. {advice}, merged with peft."
        )
    return base
