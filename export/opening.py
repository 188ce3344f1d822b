"""Whether a folder that was exported can be used: its files before any weight is written, and all of it at the end."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from ..graphs.contract import Manifest, ModelSizes, data_file
from ..graphs.errors import ModelFolderError
from ..runtime.commands.trial import NOT_HERE
from ..runtime.devices.device import CUDA, TENSORRT
from ..runtime.devices.libraries import missing_libraries
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
    import onnxruntime as ort

    gpus = {"cuda": CUDA, "tensorrt": TENSORRT}
    found = [
        name for name, provider in gpus.items() if provider in ort.get_available_providers() and not missing_libraries(provider)
    ]
    return ["cpu", *(["openvino"] if importlib.util.find_spec("openvino") else []), *found]


def _memory_needed(manifest: Manifest) -> int:
    """Bytes to open the graphs on a CPU and run them once."""
    stored = sum(manifest.files[data_file(graph)].size for graph in manifest.graphs)
    return stored * (1 if manifest.dtype == "fp32" else _WIDENED) + _ACTIVATIONS


def _problem(folder: Path, device: str) -> str:
    """Why a device does not run a folder, empty if it does; CheckpointError if that is the folder's fault."""
    runtime = f"{__name__.removesuffix('.export.opening')}.runtime.commands.trial"
    # -P: a file in the current folder must not be imported.
    run = subprocess.run([sys.executable, "-P", "-m", runtime, str(folder), device], capture_output=True, text=True)
    if run.returncode == 0:
        return ""
    reason = (run.stderr.strip() or f"exit status {run.returncode}").splitlines()[-1]
    if run.returncode == NOT_HERE and device != "cpu":
        return reason
    if run.returncode == -9:
        return "the process was killed, as systems do that run out of memory."
    raise CheckpointError(f"The exported folder cannot be used on {device}: {reason}")
