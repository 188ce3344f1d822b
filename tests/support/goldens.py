"""The processor's goldens: inputs made by arithmetic alone, and their replay. Needs nothing but the runtime.

python tests/support/goldens.py
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from idefics2_onnx import Idefics2Processor
from idefics2_onnx.runtime.folder import DEMO
from PIL import Image
from prompts import PROMPTS

GOLDENS = Path(__file__).parent / "golden_files" / "processor.json"
SIZES = [(378, 378), (377, 379), (981, 980), (40, 400), (400, 40), (1, 1), (2, 3), (600, 801), (1961, 1200)]


@functools.cache
def picture(height: int, width: int) -> Image.Image:
    """Interfering waves in three channels; integers only, so that every machine makes the same bytes."""
    y, x = np.mgrid[:height, :width]
    channels = [(x * (3 + c) + y * y // (7 + c)) % 256 ^ (x * y // 11 + 37 * c) % 256 for c in range(3)]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def cases() -> Iterator[dict[str, Any]]:
    """Prompts in batches of four, with images of every size and options in turn."""
    texts = [text for text in PROMPTS if text]
    for start in range(0, len(texts), 4):
        batch, number = texts[start : start + 4], start // 4
        images = [
            [picture(*SIZES[(number + row + i) % len(SIZES)]) for i in range(t.count("<image>"))] for row, t in enumerate(batch)
        ]
        split = number % 2 == 1 and all(image.height > 1 for own in images for image in own)
        yield {"texts": batch, "images": images, "do_image_splitting": split, "resample": number % 6}


def options_of(case: dict[str, Any]) -> dict[str, Any]:
    """The image processor's options of a case; small tiles keep the replay short."""
    size = {"shortest_edge": 37, "longest_edge": 98}
    return {
        "do_image_splitting": case["do_image_splitting"],
        "resample": case["resample"],
        "size": size,
        "image_mean": [0.5, 0.4, 0.3],
    }


def digest(case: dict[str, Any]) -> str:
    """SHA-256 of a case's inputs."""
    content = hashlib.sha256(json.dumps([case["texts"], options_of(case)]).encode())
    for own in case["images"]:
        for image in own:
            content.update(image.tobytes())
    return content.hexdigest()


def replay(case: dict[str, Any], golden: dict[str, Any]) -> None:
    """Process one case and compare it with what the reference made of it; AssertionError where they differ."""
    assert digest(case) == golden["inputs"], "the inputs changed: run tests/by_hand/make_goldens.py"
    processor = Idefics2Processor.from_pretrained(DEMO, **options_of(case))
    inputs = processor(text=case["texts"], images=case["images"], padding=True)
    assert {name: summary(array) for name, array in inputs.items()} == golden["outputs"]


def summary(array: np.ndarray) -> dict[str, Any]:
    """Shape, dtype and SHA-256 of an array."""
    content = hashlib.sha256(np.ascontiguousarray(array)).hexdigest()
    return {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": content}


if __name__ == "__main__":
    goldens = json.loads(GOLDENS.read_text())
    for one, expected in zip(cases(), goldens, strict=True):
        replay(one, expected)
    print(f"{len(goldens)} goldens replayed")
