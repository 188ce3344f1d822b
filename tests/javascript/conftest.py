"""What the JavaScript host is asked, on which folders, and what Python answers."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image, ImageCms

EXAMPLES = Path("examples")
HOST = EXAMPLES / "javascript"
FOLDERS = {
    "fp16": ("fp16", None),
    "fp32": ("fp32", None),
    "int8": ("int8", None),
    "int4": ("int4", None),
    "standard": ("fp32", "standard"),
}
"""Precision and attention of each."""
MOST_TOKENS = 96
ONE_TURN = ("shapes", "counting", "reading", "small text", "receipt", "comparing", "absence")
"""Tasks of a single question, which is what the host asks."""
ODD_SIZES = {
    "shapes.png": (333, 251),
    "stars.png": (501, 377),
    "receipt.png": (151, 149),
    "sign.png": (393, 295),
    "before.png": (237, 179),
}


@dataclass(frozen=True)
class Asked:
    """A question about picture files."""

    images: list[Path]
    question: str


@pytest.fixture(scope="session")
def folder_of(shared: Path) -> Callable[[str], Path]:
    """A folder of the demo model, exported once."""
    from idefics2_onnx.export import export_model
    from idefics2_onnx.runtime.folder import DEMO

    def make(name: str) -> Path:
        precision, attention = FOLDERS[name]
        if name == "fp16":
            return DEMO
        with FileLock(f"{shared / name}.lock"):
            if not (shared / name).exists():
                export_model("demo/checkpoint", shared / name, precision, attention=attention, verify="never")
        return shared / name

    return make


@pytest.fixture(scope="session")
def asked(tmp_path_factory: pytest.TempPathFactory) -> list[Asked]:
    """The examples, the first held-out cases of each task, and examples in sizes whose halves are odd."""
    from idefics2_onnx.demo.tasks import case

    folder = tmp_path_factory.mktemp("asked")

    def written(image: Image.Image) -> Path:
        path = folder / f"{len(list(folder.iterdir()))}.png"
        image.save(path)
        return path

    examples = json.loads((EXAMPLES / "questions.json").read_text())
    found = [Asked([EXAMPLES / name for name in one["images"]], one["question"]) for one in examples]
    for task in ONE_TURN:
        for number in range(3):
            (turn,) = case(task, "held-out", number).turns
            found.append(Asked([written(image) for image in turn.images], turn.question))
    for name, size in ODD_SIZES.items():
        question = next(one["question"] for one in examples if name in one["images"]).replace(
            "What changed?", "What is in the picture?"
        )
        found.append(Asked([written(Image.open(EXAMPLES / name).resize(size, Image.Resampling.BICUBIC))], question))
    return found


@pytest.fixture(scope="session")
def expected(folder_of: Callable[[str], Path], asked: list[Asked]) -> Callable[..., list[dict[str, Any]]]:
    """Python's answers from a folder, as the host's are written down."""
    from idefics2_onnx import Idefics2

    def make(name: str, **options: Any) -> list[dict[str, Any]]:
        model = Idefics2.from_pretrained(folder_of(name), device="cpu")
        answers = (model.generate(one.question, images=one.images, max_new_tokens=MOST_TOKENS, **options) for one in asked)
        return [{"ids": [int(token) for token in answer.token_ids], "text": answer.text} for answer in answers]

    return make


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Pictures of kinds that decoders read differently: turned, transparent, grey, deep, inks, a profile of other colours."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    noise = random.integers(0, 256, (37, 53, 4), dtype=np.uint8)
    rgb = Image.fromarray(noise[..., :3].copy())
    rgb.save(folder / "rgb.png")
    rgb.save(folder / "swapped-primaries.png", icc_profile=swapped_primaries())
    rgb.save(folder / "lossless.webp", lossless=True)
    Image.fromarray(noise).save(folder / "transparent.png")
    Image.fromarray(noise[..., :2].copy(), "LA").save(folder / "grey-transparent.png")
    rgb.convert("L").save(folder / "grey.png")
    Image.fromarray(noise, "CMYK").save(folder / "inks.jpg")
    deep = noise.astype(np.uint16) << np.arange(53, dtype=np.uint16)[:, None] % 9  # both below 256, where Pillow cuts, and above
    for channels, name in enumerate(("grey", "grey-transparent", "rgb", "transparent"), 1):
        (folder / f"{name}-16.png").write_bytes(png_of_16_bits(deep[..., :channels]))
    Image.open(folder / "grey-16.png").save(folder / "grey-16-clear.png", transparency=int(deep[0, 0, 0]))
    rgb.quantize(16).save(folder / "palette-transparent.png", transparency=bytes([0, 128, *[255] * 14]))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.open(EXAMPLES / "cat.jpg").resize((90, 61)).save(folder / f"turned-{orientation}.jpg", exif=exif, quality=90)
    for name in ("cat.jpg", "table-top.jpg"):
        shutil.copy(EXAMPLES / name, folder)
    return sorted(folder.iterdir())


def png_of_16_bits(pixels: NDArray[np.uint16]) -> bytes:
    """A PNG of pixels [height, width, 1 to 4]; Pillow writes it of one channel only."""
    height, width, channels = pixels.shape
    header = struct.pack(">2I5B", width, height, 16, (0, 4, 2, 6)[channels - 1], 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels.astype(">u2"))
    content = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return content


def swapped_primaries() -> bytes:
    """A colour profile in which red is green: a decoder that applies it shows so."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * int.from_bytes(profile[128:132], "big"), 12)}
    red, green = tags[b"rXYZ"] + 4, tags[b"gXYZ"] + 4
    profile[red : red + 8], profile[green : green + 8] = profile[green : green + 8], profile[red : red + 8]
    return bytes(profile)
