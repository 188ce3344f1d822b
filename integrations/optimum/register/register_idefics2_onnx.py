"""``optimum-cli export idefics2-onnx``, and ``optimum-cli export onnx`` where optimum-onnx is not installed.

The options are those of ``idefics2-onnx export``, read from that command, so that there is one list of them. Three are called
what optimum's own exporters call them: ``--model``, ``--dtype`` and a positional output.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser
from importlib.util import find_spec

import click
from idefics2_onnx.cli import export, main
from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand

TASKS = ("auto", "image-text-to-text", "image-text-to-text-with-past")
"""optimum's names of what Idefics2 does. The cache is always there, with and without the last one's ending."""
PRECISIONS = [option.opts[0].removeprefix("--") for option in export.params if option.name == "precision"]
TORCH_NAMES = {"float16": "fp16", "float32": "fp32", "bfloat16": "bf16"}
RENAMED = ("model", "output", "precision")
"""Parameters of our command that have optimum's names here."""


class Idefics2OnnxExportCommand(BaseOptimumCLICommand):
    """Parses as optimum's exporters do, and leaves the rest to our own command."""

    COMMAND = CommandInfo(name="idefics2-onnx", help="Export Idefics2 to three ONNX graphs, with idefics2-onnx.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the options; the values of ours are checked by our command, in `run`."""
        parser.add_argument("-m", "--model", required=True, help="Hub id or folder of a checkpoint or of a LoRA adapter.")
        parser.add_argument("output", help="Model folder to make.")
        parser.add_argument("--task", default="auto", metavar="TASK", help=f"{' or '.join(TASKS[:2])}: Idefics2 has no other.")
        parser.add_argument(
            "--dtype", default="fp16", choices=[*PRECISIONS, *TORCH_NAMES], help="Precision of the weights (fp16 by default)."
        )
        for option in export.params:
            if not isinstance(option, click.Option) or option.name in RENAMED:
                continue
            help_text = _in_optimums_words(option.help or "").replace("%", "%%")
            if option.is_flag:
                parser.add_argument(*option.opts, dest="ours", action="append_const", const=option.opts[0], help=help_text)
                continue
            choices = getattr(option.type, "choices", None)
            shown = f"{{{','.join(choices)}}}" if choices else option.type.name.upper()
            parser.add_argument(
                *option.opts, dest="ours", action="append", type=f"{option.opts[0]}={{}}".format, metavar=shown, help=help_text
            )

    def run(self) -> None:
        """Export.

        Raises:
            SystemExit: with a sentence, which Python prints before it exits with 1, for what cannot be exported.
        """
        if self.args.task not in TASKS:
            raise SystemExit(
                f"Error: --task is {self.args.task!r:.100}, and Idefics2 does image-text-to-text only. Name that, or no task."
            )
        precision = TORCH_NAMES.get(self.args.dtype, self.args.dtype)
        arguments = ["export", f"--{precision}", *(self.args.ours or []), f"--output={self.args.output}", "--", self.args.model]
        try:
            main(arguments, prog_name="optimum-cli", standalone_mode=False)
        except click.ClickException as error:
            raise SystemExit(f"Error: {_in_optimums_words(error.format_message())}") from error
        except click.Abort as error:  # Ctrl-C
            raise SystemExit("Aborted!") from error


class OnnxExportCommand(Idefics2OnnxExportCommand):
    """The same under the name that people who know optimum type."""

    COMMAND = CommandInfo(name="onnx", help="Export Idefics2 to ONNX, with idefics2-onnx. (Of other models: optimum-onnx.)")


def _in_optimums_words(text: str) -> str:
    """A text of our command line, which has a flag per precision where optimum has one option, and -o for the output."""
    return re.sub(rf"--({'|'.join(PRECISIONS)})\b", r"--dtype \1", text).replace(" with -o.", ".")


REGISTER_COMMANDS = [(Idefics2OnnxExportCommand, ExportCommand)]
# optimum-onnx registers this name, too, and argparse refuses a second one: every call of optimum-cli would fail.
if find_spec("optimum.exporters.onnx") is None:
    REGISTER_COMMANDS.append((OnnxExportCommand, ExportCommand))
