"""Pictures that this package has drawn, which it may draw again over themselves; any other file is not its to replace."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

SOFTWARE = "idefics2-onnx"
"""What a PNG that was drawn here says under this name, a text that the PNG specification knows."""


def mark() -> PngInfo:
    """For Pillow's `save`, which leaves it out of other formats."""
    text = PngInfo()
    text.add_text("Software", SOFTWARE)
    return text


def may_replace(path: Path) -> bool:
    """Whether nothing is there, or a PNG that was drawn here."""
    if not os.path.lexists(path):
        return True
    try:
        with path.open("rb") as file, Image.open(file, formats=["PNG"]) as image:
            return image.info.get("Software") == SOFTWARE
    except Exception:  # whatever Pillow cannot open is no picture of ours
        return False
