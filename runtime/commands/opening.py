"""What a command opens: the model that was named or found, and pictures as they are typed."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...graphs.contract import MANIFEST
from ...graphs.errors import ModelFolderError
from .options import MODEL_VARIABLE, pairs_of
from .output import say

if TYPE_CHECKING:
    from ..model import Idefics, Idefics2


def open_model(named: str | None, device: str, gpu: tuple[str, ...], **options: Any) -> Idefics2 | Idefics:
    """The model, opened; says on stderr what "auto" chose."""
    from ..devices.gpu_options import GpuOptions
    from ..model import load

    gpu_options = GpuOptions(**pairs_of(gpu, GpuOptions, "GPU option"))
    opened = load(choose_model(named), device, gpu_options=gpu_options, **options)
    if device == "auto":
        passed_over = opened.engine.sessions.passed_over
        say(f"Running on {opened.providers[0]}.{f' {passed_over}' if passed_over else ''}")
    return opened


def choose_model(named: str | None) -> str | None:
    """The model to use, by the order in the help text, said on stderr; None is the demo."""
    if named is not None:
        return named
    if variable := os.environ.get(MODEL_VARIABLE):
        say(f"Using {variable} (${MODEL_VARIABLE}).")
        return variable
    here = sorted(path.parent for path in Path().glob(f"*/{MANIFEST}") if not path.parent.name.startswith("."))
    if len(here) > 1:
        names = ", ".join(map(str, here))
        raise ModelFolderError(f"There are {len(here)} model folders here: {names}. Choose one with -m.")
    if here:
        say(f"Using {here[0]}.")
        return str(here[0])
    say("Using the demo model, which knows drawn shapes, short texts and receipts. For real pictures: idefics2-onnx export")
    return None


def limit_pixels(pixels: int | None) -> None:
    """Set Pillow's limit, and let it not warn of what is within: this process is the command's own."""
    from PIL import Image

    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    if pixels is not None:
        Image.MAX_IMAGE_PIXELS = pixels / 2  # type: ignore[assignment]  # Pillow refuses from twice its limit, which is odd here


def picture(name: str) -> Any:
    """An image as it is typed: a path, a pipe, a URL, or - for stdin."""
    from ..images.source import open_image
    from ..outside.download import as_typed

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
