"""The command `preview`: a picture of the tiles that the model sees."""

from __future__ import annotations

import os
from pathlib import Path

import click

from .opening import choose_model, limit_pixels, picture
from .options import force_option, pixel_option
from .output import check_output
from .standard_streams import json_text


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("tiles.png"), show_default=True, help="Picture to write."
)
@click.option("-m", "--model", help="Model folder whose image options apply [default: as for run].")
@click.option("--no-split", is_flag=True, help="Do not split images in four.")
@pixel_option
@force_option
@click.option("--json", "as_json", is_flag=True, help="Print numbers instead of writing a picture.")
def preview(
    images: tuple[str, ...],
    output: Path,
    model: str | None,
    no_split: bool,
    max_image_pixels: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Draw what the model sees of the IMAGEs: tiles, padding, tokens."""
    from ..folder import ModelFolder
    from ..inputs import preview as previews
    from ..inputs.processors import processor_class
    from .own_picture import mark

    if not as_json and any(os.path.realpath(image) == os.path.realpath(output) for image in images):
        raise click.UsageError(f"{output} is one of the images and would be overwritten. Choose another with -o.")
    if not as_json:
        check_output(output, force, "-o")
    limit_pixels(max_image_pixels)
    pictures = [picture(image) for image in images]
    folder = ModelFolder.open(choose_model(model))
    processor = processor_class(folder.manifest.model).from_pretrained(folder.path)
    shown = previews.preview(processor, pictures, **({"do_image_splitting": False} if no_split else {}))
    if as_json:
        click.echo(json_text(shown.to_dict()))
        return
    try:
        previews.draw(shown, [Path(image).name for image in images]).save(output, pnginfo=mark())
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{output} cannot be written ({error}). Choose another with -o, ending in .png.") from error
    click.echo(output)
