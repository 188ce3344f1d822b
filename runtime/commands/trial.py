"""Use a model folder as its user would, in a process that gives all memory back: open it, and ask about a picture.

python -m idefics2_onnx.runtime.commands.trial FOLDER DEVICE

The exit status is 0, or UNUSABLE with a sentence on the standard error, or NOT_HERE if the device is what does not work.
"""

from __future__ import annotations

import sys

from PIL import Image

from ..errors import Idefics2OnnxError, ProviderError
from ..image_tokens import IMAGE
from ..model import Idefics2

UNUSABLE, NOT_HERE = 3, 4


def main(folder: str, device: str) -> int:
    picture = Image.linear_gradient("L").convert("RGB")
    try:
        model = Idefics2.from_pretrained(folder, device)
        model.generate(f"{IMAGE}What is this?", picture, raw=True, do_image_splitting=False, max_new_tokens=2)
    except Idefics2OnnxError as error:
        sys.stderr.write(f"{error}\n")
        return NOT_HERE if isinstance(error, ProviderError) else UNUSABLE
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
