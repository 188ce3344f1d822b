"""The command `push`: a model folder to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

import click

from .output import Bars, as_bytes, say


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("repository")
@click.option("--revision", help="Branch of the repository, which has to be there [default: main].")
@click.option("--private", is_flag=True, help="Make the repository private, if it is new; stop if it is public.")
@click.option("--dry-run", is_flag=True, help="Say what would be uploaded, and do nothing.")
def push(folder: Path, repository: str, revision: str | None, private: bool, dry_run: bool) -> None:
    """Upload a model FOLDER to a REPOSITORY on the Hugging Face hub, owner/name, or to a folder inside of it, owner/name:int8.

    Log in before with `hf auth login`, or set HF_TOKEN. What the hub has already is not sent again: the same command goes on
    with an upload that broke off. Read README.md, the model card, first: it is uploaded, too.
    """
    from ...graphs.contract import MANIFEST
    from ..folder import MODEL_CARD, ModelFolder, find_file
    from ..outside.hub import hub_folder
    from ..outside.upload import upload

    found = hub_folder(repository)
    if found is None:
        raise click.UsageError(f"{repository!r:.200} is no repository. Give owner/name, or owner/name:folder.")
    opened = ModelFolder.open(folder)
    names = [*sorted(opened.manifest.files), MANIFEST, *([MODEL_CARD] if find_file(folder, MODEL_CARD) else [])]
    sizes = {name: opened.file(name).stat().st_size for name in names}
    for name, size in sizes.items():
        click.echo(f"{as_bytes(size):>12}  {name}")
    for name in opened.unlisted():
        say(f"Not uploaded: {name}, which the manifest does not list.")
    hub_id, subfolder = found
    where = f"{hub_id}{f', folder {subfolder}' if subfolder else ''}"
    say(f"{as_bytes(sum(sizes.values()))} {'would go' if dry_run else 'go'} to {where}.")
    if dry_run:
        return
    with Bars() as bars:
        bars.start("hashes", sum(entry.size for entry in opened.manifest.files.values()))
        opened.check(on_bytes=bars.advance)
    click.echo(upload(folder, names, hub_id, subfolder, revision, private))
