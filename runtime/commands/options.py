"""The options that commands share."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..devices.device import DEVICES, graph_devices
from ..errors import ProviderError

MODEL_VARIABLE = "IDEFICS2_ONNX_MODEL"


if TYPE_CHECKING:
    _Text = click.ParamType[str]
else:
    _Text = click.ParamType  # generic since click 8.4


class DeviceType(_Text):
    """A device's name."""

    name = "device"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            graph_devices(value)
        except ProviderError as error:
            self.fail(str(error), param, ctx)
        return value


model_option = click.option("-m", "--model", help=f"Model folder or hub id [default: ${MODEL_VARIABLE}, the one here, the demo].")
device_option = click.option("--device", type=DeviceType(), default="auto", show_default=True, help=f"One of {DEVICES}.")
max_new_tokens_option = click.option("--max-new-tokens", type=click.IntRange(1), help="Longest answer in tokens.")
generation_option = click.option(
    "-O", "--option", "chosen", multiple=True, metavar="NAME=VALUE", help="Any generation option, such as -O temperature=0.7."
)
json_schema_option = click.option(
    "--json-schema", type=click.Path(path_type=Path), metavar="FILE", help="Answer in JSON by the schema in this file."
)
regex_option = click.option("--regex", help="Answer in what matches this regular expression.")
grammar_option = click.option(
    "--grammar", type=click.Path(path_type=Path), metavar="FILE", help="Answer by the Lark grammar in this file."
)
gpu_option = click.option(
    "--gpu-option",
    "gpu",
    multiple=True,
    metavar="NAME=VALUE",
    help="Option for CUDA and TensorRT, such as --gpu-option memory_limit=8e9.",
)
stats_option = click.option("--stats", is_flag=True, help="Say what the answer took: images, prompt, tokens, cache.")
pixel_option = click.option(
    "--max-image-pixels", type=click.IntRange(1, 1 << 62), help="Most pixels of an image, for more or fewer than 178,956,970."
)
force_option = click.option("--force", is_flag=True, help="Overwrite a file that this command did not draw.")


def options_of(chosen: tuple[str, ...], **own: Any) -> dict[str, Any]:
    """Options of a generation: those with an option of their own, which are None where they were not given, and the others."""
    from ..sampling.generation_options import GenerationOptions

    options = pairs_of(chosen, GenerationOptions, "generation option")
    options |= {name: value for name, value in own.items() if value is not None}
    GenerationOptions.checked(options)  # before the model is opened, which takes a while
    return options


def pairs_of(pairs: tuple[str, ...], kind: Any, noun: str) -> dict[str, Any]:
    """NAME=VALUE pairs, whose names are a dataclass's; a value is JSON, or else the text itself."""
    options = {}
    known = [field.name for field in fields(kind)]
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise click.UsageError(f"The option {pair!r:.60} has no value. Write NAME=VALUE.")
        if name not in known:
            raise click.UsageError(f"There is no {noun} {name!r:.60}. The options are {', '.join(known)}.")
        try:
            options[name] = json.loads(value)
        except (ValueError, RecursionError):
            options[name] = {"True": True, "False": False}.get(value, value)
    return options
