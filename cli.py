"""The command line: results on stdout, progress and remarks on stderr; exit 0, 1 (our error, one sentence) or 2 (usage)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from . import __version__
from .graphs.contract import FLAVOURS, MANIFEST
from .graphs.errors import Idefics2OnnxError
from .runtime.commands import standard_streams
from .runtime.commands.batch import batch
from .runtime.commands.bench import bench
from .runtime.commands.chat import chat
from .runtime.commands.doctor import doctor
from .runtime.commands.info import info
from .runtime.commands.opening import choose_model
from .runtime.commands.options import device_option
from .runtime.commands.output import Bars, as_bytes, say
from .runtime.commands.preview import preview
from .runtime.commands.push import push
from .runtime.commands.run import run
from .runtime.commands.serve import serve
from .runtime.outside.requirement import explain, install, requirements, unfit
from .runtime.parallel import is_work_left


class _Group(click.Group):
    """Turns this package's errors into one sentence; any other exception is a bug and keeps its traceback."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        standard_streams.prepare()
        try:
            return super().main(*arguments, **options)
        except OSError as error:
            if not standard_streams.raised_in(click.echo, error):
                raise
            standard_streams.give_up()
            say(f"Error: The output cannot be written ({error.strerror}). Free some space or write elsewhere.")
            raise SystemExit(1) from error
        except SystemExit as ended:
            if is_work_left():  # Ctrl-C while a folder opened
                standard_streams.give_up()
                os._exit(ended.code if isinstance(ended.code, int) else 1)
            raise

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Idefics2OnnxError as error:
            raise click.ClickException(str(error)) from error
        except Exception as error:
            if isinstance(error.__cause__, KeyboardInterrupt):  # as pybind11 has it in a package that is being imported
                raise error.__cause__ from error
            extras = ["export"] if f"{__package__}.export" in sys.modules else []
            if not isinstance(error, click.ClickException | click.exceptions.Exit | click.Abort | OSError) and (
                reason := explain(error, *extras, *_onnx_runtimes())
            ):
                raise click.ClickException(reason) from error
            raise


def _onnx_runtimes() -> list[str]:
    """The extra of the ONNX Runtime that is installed, or of the plain one."""
    return ["gpu"] if any(each.found for each in requirements("gpu")) else ["cpu"]


def _on_ray() -> Any:
    """What `batch --ray` runs on: it stands above the runtime's commands, which therefore do not import it."""
    from .on_ray.installed import check_installed

    check_installed()
    from .on_ray import job

    return job


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "obj": _on_ray})
@click.version_option(__version__)
def main() -> None:
    """Idefics2 on ONNX Runtime: export it once, run it without PyTorch."""


for command in (batch, bench, chat, doctor, info, preview, push, run, serve):
    main.add_command(command)


@main.command()
@click.argument("model", default="HuggingFaceM4/idefics2-8b")
@click.option("--fp16", "precision", flag_value="fp16", default="fp16", help="Half precision, connector in fp32 (default).")
@click.option("--fp32", "precision", flag_value="fp32", help="Single precision.")
@click.option("--bf16", "precision", flag_value="bf16", help="bfloat16; runs on CUDA only.")
@click.option("--int8", "precision", flag_value="int8", help="8-bit weights and, on CPUs, activations: fast prompts.")
@click.option("--int4", "precision", flag_value="int4", help="4-bit weights where they cost little, 8-bit elsewhere.")
@click.option("--for", "target", type=click.Choice(["cpu", "cuda"]), help="What int8 and int4 are made for [default: cpu].")
@click.option(
    "--group-size", type=click.Choice(["16", "32", "64", "128", "256"]), help="Weights that share a scale [default: 128]."
)
@click.option(
    "--asymmetric", is_flag=True, help="Give each group of weights a zero of its own: better at 4 bits, a little larger."
)
@click.option("--fast-prompts", is_flag=True, help="Keep an int8 decoder beside the int4 one, to read prompts with.")
@click.option("--smallest", is_flag=True, help="With --int4: 4 bits even where they cost the most for what they save.")
@click.option(
    "--calibrate",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of pictures and prompts.txt (a prompt a line) to measure activations on, for int8 and int4: up to 8 pictures, "
    "16 prompts of 64 tokens, and 768 tokens in all.",
)
@click.option(
    "--adapter",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="LoRA adapter to merge, a folder of PEFT's. What it was trained with (tokenizer, chat template, …) is used from there.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Model folder to make [default: ./<model>-<precision>].")
@click.option(
    "--attention",
    type=click.Choice(FLAVOURS),
    help="Operators: ONNX Runtime's own, or ai.onnx only, but for int8 and int4 products.",
)
@click.option(
    "--verify",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Compare with the reference afterwards: auto does it layer by layer where the memory is short.",
)
@click.option(
    "--layout",
    type=click.Choice(["idefics2-onnx", "transformers.js"]),
    default="idefics2-onnx",
    show_default=True,
    help="Names and inputs of this package's graphs, or of transformers.js's sessions.",
)
@click.option("--keep", is_flag=True, help="Keep a folder that fails the comparison, as OUTPUT-differs.")
@click.option("--revision", help="Commit, branch or tag of a hub checkpoint.")
def export(
    model: str,
    precision: Any,
    target: Any,
    group_size: str | None,
    asymmetric: bool,
    smallest: bool,
    fast_prompts: bool,
    calibrate: Path | None,
    adapter: Path | None,
    output: Path | None,
    attention: Any,
    verify: Any,
    layout: Any,
    keep: bool,
    revision: str | None,
) -> None:
    """Export MODEL, the folder or hub id of a checkpoint or of a LoRA adapter that names its base, to a model folder."""
    exporter = _exporter()
    if fast_prompts and (precision != "int4" or target == "cuda"):
        raise click.UsageError("--fast-prompts goes with --int4 on CPUs.")
    if smallest and precision != "int4":
        raise click.UsageError("--smallest goes with --int4.")
    if (group_size or asymmetric) and precision == "int8" and target != "cuda":
        raise click.UsageError("--group-size and --asymmetric go with --int4: int8 for CPUs has a scale per output.")
    if precision in ("int8", "int4"):
        precision = exporter.Quantisation(
            precision, target or "cpu", int(group_size or 128), not asymmetric, smallest, fast_prompts
        )
    elif target or group_size or asymmetric or calibrate:
        raise click.UsageError("--for, --group-size, --asymmetric and --calibrate go with --int8 or --int4.")
    with Bars() as bars:
        report = exporter.export_model(
            model,
            output,
            precision,
            attention=attention,
            verify=verify,
            revision=revision,
            adapter=adapter,
            calibrate=calibrate,
            keep=keep,
            layout=layout,
            listener=bars,
        )
    size = sum(entry.size for entry in report.manifest.files.values())
    say(f"{report.manifest.model.num_parameters:,} parameters in {as_bytes(size)}:")
    click.echo(report.folder)


@main.command()
@click.argument("folder", required=False)
@click.option(
    "--against",
    metavar="MODEL",
    help="Compare with this checkpoint or more precise model folder, too (needs the [export] extra).",
)
@click.option(
    "--adapter",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="LoRA adapter that FOLDER was exported with, where --against names its base model.",
)
@device_option
def verify(folder: str | None, against: str | None, adapter: Path | None, device: str) -> None:
    """Check a model FOLDER: files, hashes, interfaces, finite outputs; and how it agrees with another MODEL if one is given."""
    from .runtime.commands.check import check_folder
    from .runtime.folder import ModelFolder

    if adapter and not against:
        raise click.UsageError("--adapter belongs to the checkpoint that --against names. Name one.")
    opened = ModelFolder.open(choose_model(folder))
    precise = _exporter().open_layered(against, adapter) if against else None
    with Bars() as bars:
        bars.start("hashes", sum(entry.size for entry in opened.manifest.files.values()))
        for line in check_folder(opened, device, bars.advance):
            bars.finish()
            click.echo(line)
    if precise is not None and against:
        exporter, verification = _exporter(), None
        if not (Path(against) / MANIFEST).is_file():
            verification = exporter.verify_folder(opened.path, against, adapter=adapter)
            for line in verification.lines():
                click.echo(line)
            if "+" in opened.manifest.source and "+" not in precise.source:
                say(f"The folder was made from {opened.manifest.source}: name the adapter with --adapter.")
        readers = [graph for graph in ("prompt", "decoder") if graph in opened.manifest.graphs]
        for reader in readers:
            name = f"{reader}, " if len(readers) > 1 else ""
            click.echo(f"{name}{exporter.agreement(opened.path, precise, reader)}")
        if verification is not None:
            verification.raise_past_floor()


def _exporter() -> Any:
    from . import export as exporter

    if others := unfit("export"):
        say(f"Not tested with {', '.join(map(str, others))}. If anything fails: {install('export')}")
    return exporter
