"""The command `doctor`: what is here and works, as lines or JSON."""

from __future__ import annotations

import click

from .options import DeviceType
from .standard_streams import json_text


@click.command()
@click.argument("folder", required=False)
@click.option("--device", type=DeviceType(), help="Say whether this device works, and what it would run of FOLDER.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(folder: str | None, device: str | None, as_json: bool) -> None:
    """Say what is here, what works, and what to do about what does not."""
    from .examination import examine

    examination = examine(folder, device)
    if as_json:
        click.echo(json_text(examination.to_dict(), indent=2))
    else:
        for finding in examination.findings:
            click.echo(finding)
    if not examination.healthy:
        raise SystemExit(1)
