"""The command line: results on stdout, progress and remarks on stderr; exit 0, 1 (our error, one sentence) or 2 (usage)."""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import __version__
from .graphs.contract import FLAVOURS, MANIFEST, Manifest, data_file, graph_file
from .graphs.errors import Idefics2OnnxError, ModelFolderError
from .runtime.commands import standard_streams
from .runtime.commands.standard_streams import json_text
from .runtime.devices.device import DEVICES, place
from .runtime.errors import ProviderError
from .runtime.image_tokens import tiles_per_image
from .runtime.outside.requirement import explain, install, requirements, unfit
from .runtime.parallel import is_work_left

if TYPE_CHECKING:
    from .runtime.generation.answer import Generation
    from .runtime.model import Idefics2

MODEL_VARIABLE = "IDEFICS2_ONNX_MODEL"
_EXAMPLE_TOKENS = 256
_LONGEST_LINE = 1 << 20
_IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif")


class _DeviceType(click.ParamType[str]):
    """A device's name."""

    name = "device"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            place(value)
        except ProviderError as error:
            self.fail(str(error), param, ctx)
        return value


_model_option = click.option(
    "-m", "--model", help=f"Model folder or hub id [default: ${MODEL_VARIABLE}, the one here, the demo]."
)
_device_option = click.option("--device", type=_DeviceType(), default="auto", show_default=True, help=f"One of {DEVICES}.")
_max_new_tokens_option = click.option("--max-new-tokens", type=click.IntRange(1), help="Longest answer in tokens.")
_generation_option = click.option(
    "-O", "--option", "chosen", multiple=True, metavar="NAME=VALUE", help="Any generation option, such as -O temperature=0.7."
)
_card_option = click.option(
    "--card", multiple=True, metavar="NAME=VALUE", help="Option for CUDA and TensorRT, such as --card memory_limit=8e9."
)
_stats_option = click.option("--stats", is_flag=True, help="Say what the answer took: images, prompt, tokens, cache.")
_pixel_option = click.option(
    "--max-image-pixels", type=click.IntRange(1, 1 << 62), help="Most pixels of an image, for more or fewer than 178,956,970."
)
_force_option = click.option("--force", is_flag=True, help="Overwrite a file that this command did not draw.")


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
            _say(f"Error: The output cannot be written ({error.strerror}). Free some space or write elsewhere.")
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


def _say(line: str) -> None:
    with standard_streams.dropping():
        click.echo(line, err=True)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Idefics2 on ONNX Runtime: export it once, run it without PyTorch."""


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
    with _Bars() as bars:
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
            listener=bars,
        )
    size = sum(entry.size for entry in report.manifest.files.values())
    _say(f"{report.manifest.model.num_parameters:,} parameters in {_bytes(size)}:")
    click.echo(report.folder)


@main.command()
@click.argument("arguments", nargs=-1, required=True, metavar="[IMAGE]... PROMPT")
@_model_option
@_device_option
@_card_option
@_max_new_tokens_option
@_generation_option
@click.option("--raw", is_flag=True, help="Take PROMPT literally instead of as a user turn of a chat.")
@click.option("--no-split", is_flag=True, help="Do not split images in four: faster, worse on small text.")
@_pixel_option
@_stats_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of streaming text.")
def run(
    arguments: tuple[str, ...],
    model: str | None,
    device: str,
    card: tuple[str, ...],
    max_new_tokens: int | None,
    chosen: tuple[str, ...],
    raw: bool,
    no_split: bool,
    max_image_pixels: int | None,
    stats: bool,
    as_json: bool,
) -> None:
    """Answer PROMPT about the IMAGEs (files, URLs, or - for stdin), streaming the text."""
    *images, prompt = arguments
    if os.path.isfile(prompt):  # noqa: PTH113  unlike Path's, it answers for a prompt longer than any file name
        raise click.UsageError(f"The last argument, {prompt}, is a file, so the prompt is missing. Put the question last.")
    if not images and prompt == "-":
        raise click.UsageError("- is an image on stdin, and the prompt is missing. Put the question last.")
    if not images and prompt.lower().endswith(_IMAGE_ENDINGS) and " " not in prompt:
        raise click.UsageError(f"There is no file {prompt}, and the prompt is missing. Check the path and put the question last.")
    options = options_of(chosen) | {"raw": raw}
    if max_new_tokens is not None:
        options["max_new_tokens"] = max_new_tokens
    if no_split:
        options["do_image_splitting"] = False
    _limit_pixels(max_image_pixels)
    pictures = [_picture(image) for image in images]  # before the model: opening a large one takes a while
    opened = _open(model, device, card)
    asked = opened.options.replace(**options_of(chosen))
    if asked.num_beams > 1 or asked.num_return_sequences > 1:  # these do not grow piece by piece
        answers = opened.generate(prompt, pictures, **options)
        results = answers if isinstance(answers, list) else [answers]
        for result in () if as_json else results:
            click.echo(result.text)
    else:
        stream = opened.stream(prompt, pictures, **options)
        for piece in stream:
            if not as_json:
                click.echo(piece, nl=False)
        results = [stream.result]
        if not as_json:
            click.echo()
    if as_json:
        shown = [asdict(result) for result in results]
        click.echo(json_text(shown if len(shown) > 1 else shown[0]))
    for line in results[0].timings.lines() if stats else [_timing_line(results[0])]:
        _say(line)


@main.command()
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@_model_option
@_device_option
@_card_option
@_max_new_tokens_option
@_generation_option
@_pixel_option
def chat(
    images: tuple[str, ...],
    model: str | None,
    device: str,
    card: tuple[str, ...],
    max_new_tokens: int | None,
    chosen: tuple[str, ...],
    max_image_pixels: int | None,
) -> None:
    """Talk about the IMAGEs, and more as you go; /help lists the commands."""
    options = options_of(chosen)
    if max_new_tokens is not None:
        options["max_new_tokens"] = max_new_tokens
    if "-" in images:
        raise click.UsageError("stdin holds the conversation here, so no image can be read from it. Give the image's path.")
    from .runtime.commands.console import Console

    _limit_pixels(max_image_pixels)
    opened = _open(model, device, card)
    console = Console(opened.chat(**options), lambda piece: click.echo(piece, nl=False), _say, allow_urls=True)
    console.images = [_picture(image) for image in images]
    if sys.stdin.isatty():
        _say("/help lists the commands, Ctrl-D leaves.")
        with _line_editing():
            console.run(lambda: _line_of(lambda: input("> ")))
    else:
        console.run(lambda: _line_of(_read_line))


@main.command()
@click.argument("folder", required=False)
@_device_option
@_card_option
@click.option("--image", "sizes", multiple=True, metavar="WxH", help="Size of an image [default: 378x378, 980x735, 1600x1200].")
@click.option("--prompt-tokens", multiple=True, type=click.IntRange(1), help="Length of a prompt [default: 32, 256, 1024].")
@click.option("--batch", "batches", multiple=True, type=click.IntRange(1), help="Prompts at once [default: 1, 4].")
@click.option("--new-tokens", type=click.IntRange(2), default=32, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Medians are taken of so many.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the table, too (needs the extra [bench]).")
@_force_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench(
    folder: str | None,
    device: str,
    card: tuple[str, ...],
    sizes: tuple[str, ...],
    prompt_tokens: tuple[int, ...],
    batches: tuple[int, ...],
    new_tokens: int,
    rounds: int,
    plot: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure a model FOLDER here: images, prompts and answers of several sizes."""
    from .runtime.commands import bench as benches

    pixels = [_size(text) for text in sizes or ("378x378", "980x735", "1600x1200")]
    if plot is not None:
        plot = plot if plot.suffix else plot.with_name(f"{plot.name}.png")  # as matplotlib does
        _check_output(plot, force, "--plot")
    opened = _open(folder, device, card)
    room = opened.folder.manifest.model.max_positions - new_tokens
    lengths = prompt_tokens or [length for length in (32, 256, 1024) if length <= room]
    if not lengths or max(lengths) > room:
        longest = max(lengths, default=0)
        raise click.ClickException(
            f"The model has {room + new_tokens} positions, fewer than a prompt of {longest} and {new_tokens} new tokens. "
            "Lower them."
        )
    images: list[Any] = []
    texts: list[Any] = []
    with _Bars() as bars:
        bars.start("measuring", 2 * len(pixels) + len(lengths) * len(batches or (1, 4)))
        for image_speed in benches.image_speeds(opened, pixels, (False, True), rounds):
            images.append(image_speed)
            bars.advance(1)
        for text_speed in benches.text_speeds(opened, batches or (1, 4), lengths, new_tokens, rounds):
            texts.append(text_speed)
            bars.advance(1)
    if as_json:
        click.echo(json_text({"folder": str(opened.folder.path), "providers": opened.providers} | benches.as_dict(images, texts)))
    else:
        click.echo(benches.table(images, texts))
    if plot is not None:
        benches.plot(images, texts, plot)


@main.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("tiles.png"), show_default=True, help="Picture to write."
)
@click.option("-m", "--model", help="Model folder whose image options apply [default: as for run].")
@click.option("--no-split", is_flag=True, help="Do not split images in four.")
@_pixel_option
@_force_option
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
    from .runtime.commands.own_picture import mark
    from .runtime.folder import ModelFolder
    from .runtime.inputs import preview as previews
    from .runtime.inputs.processor import Idefics2Processor

    if not as_json and any(os.path.realpath(image) == os.path.realpath(output) for image in images):
        raise click.UsageError(f"{output} is one of the images and would be overwritten. Choose another with -o.")
    if not as_json:
        _check_output(output, force, "-o")
    _limit_pixels(max_image_pixels)
    pictures = [_picture(image) for image in images]
    processor = Idefics2Processor.from_pretrained(ModelFolder.open(_choose_model(model)).path)
    shown = previews.preview(processor, pictures, **({"do_image_splitting": False} if no_split else {}))
    if as_json:
        click.echo(json_text(shown.to_dict()))
        return
    try:
        previews.draw(shown, [Path(image).name for image in images]).save(output, pnginfo=mark())
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{output} cannot be written ({error}). Choose another with -o, ending in .png.") from error
    click.echo(output)


@main.command()
@click.argument("folder", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def info(folder: str | None, as_json: bool) -> None:
    """Show what a model FOLDER holds and what its prompts cost."""
    from .runtime.folder import ModelFolder

    opened = ModelFolder.open(_choose_model(folder))
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
        click.echo(f"  {graph:10}  {entry['precision']}  {_bytes(entry['bytes'])}")
    click.echo(f"  image       {prompt['tokens_per_image']} tokens, {prompt['tokens_per_split_image']} when split")
    window = f", window {manifest.model.sliding_window:,}" if manifest.model.sliding_window else ""
    click.echo(f"  longest     {manifest.model.max_positions:,} tokens{window}")
    click.echo(f"  cache       {_bytes(prompt['cache_bytes_per_token'])} per token")
    tokens = prompt["tokens_per_split_image"] + _EXAMPLE_TOKENS
    cost = _bytes(tokens * prompt["cache_bytes_per_token"])
    click.echo(f"  example     a split image and {_EXAMPLE_TOKENS} tokens of text: {tokens} tokens, {cost} of cache")


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
@_device_option
def verify(folder: str | None, against: str | None, adapter: Path | None, device: str) -> None:
    """Check a model FOLDER: files, hashes, interfaces, finite outputs; and how it agrees with another MODEL if one is given."""
    from .runtime.commands.check import check_folder
    from .runtime.folder import ModelFolder

    if adapter and not against:
        raise click.UsageError("--adapter belongs to the checkpoint that --against names. Name one.")
    opened = ModelFolder.open(_choose_model(folder))
    precise = _exporter().open_layered(against, adapter) if against else None
    with _Bars() as bars:
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
                _say(f"The folder was made from {opened.manifest.source}: name the adapter with --adapter.")
        readers = [graph for graph in ("prompt", "decoder") if graph in opened.manifest.graphs]
        for reader in readers:
            name = f"{reader}, " if len(readers) > 1 else ""
            click.echo(f"{name}{exporter.agreement(opened.path, precise, reader)}")
        if verification is not None:
            verification.raise_past_floor()


@main.command()
@click.argument("folder", required=False)
@click.option("--device", type=_DeviceType(), help="Say whether this device works, and what it would run of FOLDER.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(folder: str | None, device: str | None, as_json: bool) -> None:
    """Say what is here, what works, and what to do about what does not."""
    from .runtime.commands.doctor import examine

    examination = examine(folder, device)
    if as_json:
        click.echo(json_text(examination.to_dict(), indent=2))
    else:
        for finding in examination.findings:
            click.echo(finding)
    if not examination.healthy:
        raise SystemExit(1)


def _open(named: str | None, device: str, card: tuple[str, ...], **options: Any) -> Idefics2:
    """The model, opened; says on stderr what "auto" chose."""
    from .runtime.devices.gpu_options import CardOptions
    from .runtime.model import Idefics2

    card_options = CardOptions(**pairs_of(card, CardOptions, "card option"))
    opened = Idefics2.from_pretrained(_choose_model(named), device, card_options=card_options, **options)
    if device == "auto":
        passed_over = opened.engine.sessions.passed_over
        _say(f"Running on {opened.providers[0]}.{f' {passed_over}' if passed_over else ''}")
    return opened


def _choose_model(named: str | None) -> str | None:
    """The model to use, by the order in the help text, said on stderr; None is the demo."""
    if named is not None:
        return named
    if variable := os.environ.get(MODEL_VARIABLE):
        _say(f"Using {variable} (${MODEL_VARIABLE}).")
        return variable
    here = sorted(path.parent for path in Path().glob(f"*/{MANIFEST}") if not path.parent.name.startswith("."))
    if len(here) > 1:
        names = ", ".join(map(str, here))
        raise ModelFolderError(f"There are {len(here)} model folders here: {names}. Choose one with -m.")
    if here:
        _say(f"Using {here[0]}.")
        return str(here[0])
    _say("Using the demo model, which knows drawn shapes, short texts and receipts. For real pictures: idefics2-onnx export")
    return None


def options_of(chosen: tuple[str, ...]) -> dict[str, Any]:
    """Options of a generation."""
    from .runtime.sampling.generation_options import GenerationOptions

    options = pairs_of(chosen, GenerationOptions, "generation option")
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


def _line_of(read: Callable[[], str]) -> str:
    try:
        return read()
    except OSError as error:  # a terminal that is gone, or a stdin that is open for writing only
        raise click.ClickException(
            f"The input cannot be read ({error.strerror}). Give lines on stdin, or use a terminal."
        ) from error


def _read_line() -> str:
    """The next line of stdin; an endless one does not fill the memory."""
    line = sys.stdin.readline(_LONGEST_LINE)
    if not line:
        raise EOFError
    if len(line) == _LONGEST_LINE and not line.endswith("\n"):
        raise click.ClickException(f"A line of the input has more than {_LONGEST_LINE:,} letters. Write shorter messages.")
    return line


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not re.fullmatch(r"[1-9][0-9]{0,4}x[1-9][0-9]{0,4}", text):
        raise click.UsageError(f"The size {text!r:.60} is not WIDTHxHEIGHT, in pixels below 100,000. Write it like 980x735.")
    from .runtime.images.decoding_cost import max_pixels

    limit = max_pixels()
    if limit is not None and int(width) * int(height) > limit:
        raise click.UsageError(
            f"The size {text!r:.60} has more pixels than the {limit:,} that an image may have. Make it smaller."
        )
    return int(width), int(height)


@contextmanager
def _line_editing() -> Iterator[None]:
    """Arrow keys and a history that outlives the program, where Python has readline."""
    try:
        import readline
    except ModuleNotFoundError:  # Windows: the terminal edits lines itself
        yield
        return
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "idefics2-onnx"
    with suppress(OSError):
        readline.read_history_file(state / "history")
    try:
        yield
    finally:
        with suppress(OSError):
            state.mkdir(parents=True, exist_ok=True)
            readline.set_history_length(1000)
            readline.write_history_file(state / "history")


def _limit_pixels(pixels: int | None) -> None:
    """Set Pillow's limit, and let it not warn of what is within: this process is the command's own."""
    from PIL import Image

    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    if pixels is not None:
        Image.MAX_IMAGE_PIXELS = pixels / 2  # type: ignore[assignment]  # Pillow refuses from twice its limit, which is odd here


def _picture(name: str) -> Any:
    """An image as it is typed: a path, a pipe, a URL, or - for stdin."""
    from .runtime.images.source import open_image
    from .runtime.outside.download import as_typed

    if name == "-":
        return open_image(sys.stdin.buffer)
    try:
        pipe = Path(name).is_fifo()
    except (OSError, ValueError):  # no path at all
        pipe = False
    if not pipe:
        return open_image(name, as_typed(name))
    with Path(name).open("rb") as file:
        return open_image(file)


def _check_output(output: Path, force: bool, option: str) -> None:
    from .runtime.commands.own_picture import may_replace

    if not force and not may_replace(output):
        raise click.UsageError(
            f"{output} is there and was not drawn here. Choose another with {option}, or overwrite it: --force."
        )


def _exporter() -> Any:
    from . import export as exporter

    if others := unfit("export"):
        _say(f"Not tested with {', '.join(map(str, others))}. If anything fails: {install('export')}")
    return exporter


def _facts(path: Path, manifest: Manifest) -> dict[str, Any]:
    model = manifest.model
    per_token = 2 * model.num_layers * model.num_key_value_heads * model.head_dim
    return {
        "folder": str(path),
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
        "prompt": {
            "tokens_per_image": model.image_seq_len,
            "tokens_per_split_image": tiles_per_image(split=True) * model.image_seq_len,
            "cache_bytes_per_token": per_token * (4 if manifest.dtype == "fp32" else 2),
        },
        "tools": manifest.tools,
    }


def _timing_line(result: Generation) -> str:
    timings = result.timings
    line = f"[{result.prompt_tokens} prompt tokens, first token after {timings.images + timings.prefill:.2f} s"
    if timings.tokens_per_second:
        line += f", then {timings.tokens_per_second:.1f} tokens/s"
    return f"{line}, {'ended by itself' if result.finish_reason == 'stop' else 'cut off by max_new_tokens'}]"


def _bytes(count: int) -> str:
    value, unit = float(count), "bytes"
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:,.0f} {unit}" if unit == "bytes" else f"{value:,.1f} {unit}"


class _Bars:
    """Progress bars on stderr, one after another; an export.Listener."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def say(self, line: str) -> None:
        self.finish()
        _say(line)

    def start(self, step: str, total: int) -> None:
        self.finish()
        with standard_streams.dropping():
            self._bar = click.progressbar(
                length=total, label=f"{step:10}", file=sys.stderr, show_eta=True, item_show_func=lambda text: text
            )
            self._bar.__enter__()

    def advance(self, done: int) -> None:
        if self._bar is not None:
            with standard_streams.dropping():
                self._bar.update(done, f"{_bytes(self._bar.pos + done)} of {_bytes(self._bar.length)}")

    def finish(self) -> None:
        if self._bar is not None:
            with standard_streams.dropping():
                self._bar.__exit__(None, None, None)
            self._bar = None
