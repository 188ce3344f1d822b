"""Whether a folder that was exported can be used: its files before any weight is written, and all of it at the end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from ..graphs.contract import Manifest, ModelSizes, data_file
from ..graphs.errors import ModelFolderError
from ..runtime.errors import PromptError
from ..runtime.folder import ModelFolder
from ..runtime.generation.host_files import HostFiles
from .errors import CheckpointError
from .source.checkpoint import Checkpoint

_ACTIVATIONS = 1 << 30
"""Bytes that a short answer about one small picture takes beside the weights, with plenty of room."""
_WIDENED = 3
"""A CPU reads half-precision weights as fp32: the file's pages and twice their size."""


def check_files(folder: Path, checkpoint: Checkpoint, sizes: ModelSizes) -> None:
    """Read the files that were written into `folder` as the runtime does when it opens it.

    Raises:
        CheckpointError: one of them cannot be used; it names the checkpoint's and says what to change there.
    """
    try:
        template = HostFiles.read(folder, sizes).processor.chat_template
    except (ModelFolderError, PromptError) as error:
        fact = str(error).replace(f"{folder}/", "").replace(f"{folder}'s ", "")
        raise CheckpointError(f"{checkpoint.folder} makes a folder that cannot be used: {fact}") from error
    try:
        if template is not None:
            template.check()
    except ModelFolderError as error:
        raise CheckpointError(
            f"{checkpoint.folder} has a chat template that is not valid Jinja ({error.__cause__}). Correct it, or remove it to "
            "go without."
        ) from error


def open_folder(folder: Path) -> Iterator[str]:
    """Open a finished folder on every device that is there and ask it about a picture; yield where that was not possible.

    Raises:
        CheckpointError: it cannot be used.
    """
    try:
        manifest = ModelFolder.open(folder).manifest
    except ModelFolderError as error:
        raise CheckpointError(f"The exported folder cannot be used: {error}") from error
    for device in _devices():
        needed, free = _memory_needed(manifest), psutil.virtual_memory().available
        if manifest.dtype == "bf16" and device not in ("cuda", "tensorrt"):
            yield f"Not opened on {device}: bf16 graphs run on CUDA only."
        elif device in ("cpu", "openvino") and needed > free:
            yield f"Not opened on {device}: that takes {needed / 1e9:.1f} GB of memory where {free / 1e9:.1f} GB are free."
        elif problem := _problem(folder, device):
            yield f"Not opened on {device}: {problem}"


def _devices() -> list[str]:
    """The CPU, and what else could be loaded here."""
    return _trial().stdout.split()


def _memory_needed(manifest: Manifest) -> int:
    """Bytes to open the graphs on a CPU and run them once."""
    stored = sum(manifest.files[data_file(graph)].size for graph in manifest.graphs)
    return stored * (1 if manifest.dtype == "fp32" else _WIDENED) + _ACTIVATIONS


def _problem(folder: Path, device: str) -> str:
    """Why a device does not work here, empty if it does; CheckpointError if the folder does not."""
    run = _trial(str(folder), device)
    if run.returncode == 0:
        return run.stdout.strip()
    reason = (run.stderr.strip() or f"exit status {run.returncode}").splitlines()[-1]
    if run.returncode == -9:
        return "the process was killed, as systems do that run out of memory."
    raise CheckpointError(f"The exported folder cannot be used on {device}: {reason}")


def _trial(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The runtime, in a process of its own: all memory comes back, and what a driver prints or breaks stays there."""
    runtime = f"{__name__.removesuffix('.export.opening')}.runtime.commands.trial"
    # -P: a file in the current folder must not be imported.
    return subprocess.run([sys.executable, "-P", "-m", runtime, *arguments], capture_output=True, text=True)
