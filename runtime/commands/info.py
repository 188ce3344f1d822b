"""The command `info`: what a folder holds and what its prompts cost."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ...graphs.contract import Manifest, data_file, graph_file
from .opening import choose_model
from .output import as_bytes
from .standard_streams import json_text

_EXAMPLE_TOKENS = 256


@click.command()
@click.argument("folder", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def info(folder: str | None, as_json: bool) -> None:
    """Show what a model FOLDER holds and what its prompts cost."""
    from ..folder import ModelFolder

    opened = ModelFolder.open(choose_model(folder))
    facts = _facts(opened.path, opened.manifest)
    if as_json:
        click.echo(json_text(facts, indent=2))
        return
    manifest, prompt = opened.manifest, facts["prompt"]
    click.echo(f"{opened.path}")
    click.echo(f"  from        {manifest.source}{f' at {manifest.revision}' if manifest.revision else ''}")
    click.echo(f"  parameters  {manifest.model.num_parameters:,}")
    click.echo(f"  attention   {manifest.attention}, opset {manifest.opset}")
    for graph, entry in facts["graphs"].items():
        click.echo(f"  {graph:10}  {entry['precision']}  {as_bytes(entry['bytes'])}")
    click.echo(f"  image       {_image_line(prompt)}")
    window = f", window {manifest.model.sliding_window:,}" if manifest.model.sliding_window else ""
    click.echo(f"  longest     {manifest.model.max_positions:,} tokens{window}")
    click.echo(f"  cache       {as_bytes(prompt['cache_bytes_per_token'])} per token")
    tokens = prompt.get("tokens_per_split_image", prompt["tokens_per_image"]) + _EXAMPLE_TOKENS
    cost = as_bytes(tokens * prompt["cache_bytes_per_token"] + prompt.get("cache_bytes_per_image", 0))
    image = "a split image" if "tokens_per_split_image" in prompt else "an image"
    click.echo(f"  example     {image} and {_EXAMPLE_TOKENS} tokens of text: {tokens} tokens, {cost} of cache")


def _image_line(prompt: dict[str, Any]) -> str:
    count = prompt["tokens_per_image"]
    line = f"{count} token{'s' * (count != 1)}"
    if "tokens_per_split_image" in prompt:
        return f"{line}, {prompt['tokens_per_split_image']} when split"
    return f"{line}, and {as_bytes(prompt['cache_bytes_per_image'])} of keys and values"


def _facts(path: Path, manifest: Manifest) -> dict[str, Any]:
    from ..image_tokens import tiles_per_image

    model = manifest.model
    per_layer = 2 * model.num_key_value_heads * model.head_dim * (4 if manifest.dtype == "fp32" else 2)
    prompt = {"tokens_per_image": model.tokens_per_image, "cache_bytes_per_token": per_layer * model.num_layers}
    if model.image_size is None:  # images of any size, whole or split
        prompt["tokens_per_split_image"] = tiles_per_image(split=True) * model.tokens_per_image
    else:
        prompt["cache_bytes_per_image"] = per_layer * model.num_cross_layers * model.image_seq_len
    return {
        "folder": str(path),
        "architecture": manifest.architecture,
        "source": manifest.source,
        "revision": manifest.revision,
        "attention": manifest.attention,
        "opset": manifest.opset,
        "model": asdict(model),
        "graphs": {
            graph: {
                "precision": manifest.precision[graph],
                "bytes": manifest.files[graph_file(graph)].size + manifest.files[data_file(graph)].size,
            }
            for graph in manifest.graphs
        },
        "prompt": prompt,
        "tools": manifest.tools,
    }
