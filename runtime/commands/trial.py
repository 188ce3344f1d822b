"""Use a model folder as its user would, in a process that gives all memory back: open it, and ask about a picture.

python -m idefics2_onnx.runtime.commands.trial FOLDER DEVICE   prints a sentence if the device does not work here
python -m idefics2_onnx.runtime.commands.trial                 prints the devices that could be loaded here, a line each

The exit status is 0, or UNUSABLE with a sentence on the standard error if the folder is to blame.
"""

from __future__ import annotations

import importlib.util
import sys

from PIL import Image

from ..devices.device import CUDA, TENSORRT
from ..devices.libraries import missing_libraries
from ..errors import Idefics2OnnxError, ProviderError
from ..image_tokens import IMAGE
from ..model import load

UNUSABLE = 3


def main(folder: str | None = None, device: str = "cpu") -> int:
    if folder is None:
        sys.stdout.writelines(f"{name}\n" for name in _devices())
        return 0
    picture = Image.linear_gradient("L").convert("RGB")
    try:
        model = load(folder, device)
        model.generate(f"{IMAGE}What is this?", picture, raw=True, do_image_splitting=False, max_new_tokens=2)
    except Idefics2OnnxError as error:
        is_here = device == "cpu" or not isinstance(error, ProviderError)
        (sys.stderr if is_here else sys.stdout).write(f"{error}\n")
        return UNUSABLE if is_here else 0
    return 0


def _devices() -> list[str]:
    """The CPU, and what else could be loaded here."""
    import onnxruntime as ort

    gpus = {"cuda": CUDA, "tensorrt": TENSORRT}
    found = [
        name for name, provider in gpus.items() if provider in ort.get_available_providers() and not missing_libraries(provider)
    ]
    return ["cpu", *(["openvino"] if importlib.util.find_spec("openvino") else []), *found]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
