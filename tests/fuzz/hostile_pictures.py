"""Hostile pictures and addresses: each case tries one input, and may end in an ImageError or a picture and nothing else.

`python tests/fuzz/hostile_fuzz.py --kinds pictures` tries more than the tests do, with 4 GB of memory.
"""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from idefics2_onnx import Idefics2ImageProcessor, ImageError
from idefics2_onnx.runtime.images.source import ImageUrl, open_image
from idefics2_onnx.runtime.inputs.messages import images_in
from PIL import Image

Case = tuple[str, Callable[[], object]]
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("MPO", {"save_all": True}),
    ("PNG", {}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True, "save_all": True}),
    ("GIF", {"save_all": True}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "jpeg"}),
    ("TIFF", {"compression": "tiff_deflate", "big_tiff": True}),
    ("PPM", {}),
    ("AVIF", {"speed": 10}),
]
NUMBERS = [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
LITERALS = [
    "http://10.0.0.1/", "http://192.168.1.1:80/x", "http://169.254.169.254/latest/meta-data", "http://100.64.0.1/", "http://0.0.0.0/",
    "http://224.0.0.1/", "http://255.255.255.255/", "http://2130706433/", "http://0x7f.1/", "http://017700000001/", "http://127.1/",
    "http://[::ffff:10.0.0.1]/", "http://[2002:0a00:0001::]/", "http://[64:ff9b::10.0.0.1]/",
    "http://[fe80::1]/", "http://[fc00::1]/", "http://[::]/", "http://[ff02::1]/", "http://[::127.0.0.1]/", "http://[fe80::1%25lo]/",
]  # fmt: skip
"""None of them public; 127.0.0.1:9, where nothing listens, is the only address that a case may try."""
WORDS = ["http:", "https:", "ftp:", "file:", "data:", "//", "/", "\\", "@", ":", "?", "#", "%", "%00", "..", "[", "]", "127.0.0.1:9", "é", "\ud800", "\0", " ", "\n", "image/png", ";base64", ",", "AAAA", "=", "~", "etc/passwd"]  # fmt: skip


def cases(seed: int, count: int) -> Iterator[Case]:
    """So many cases by random numbers of this seed; none of them reaches beyond this machine."""
    rng = np.random.default_rng(seed)
    pictures = _pictures()
    processor = Idefics2ImageProcessor(size={"height": 8, "width": 8})
    for number in range(count):
        draw = int(rng.integers(10))
        if draw < 6:
            kind, content = pictures[int(rng.integers(len(pictures)))]
            damaged = _damaged(rng, bytearray(content))
            yield f"{number} {kind} {damaged[:40].hex()}", lambda damaged=damaged: processor(damaged)  # type: ignore[misc]
        elif draw < 8:
            url = _data_url(rng, pictures[int(rng.integers(len(pictures)))][1])
            yield f"{number} {url[:60]!r}", lambda url=url: _in_message(url)  # type: ignore[misc]
        else:
            url = _address(rng)
            yield f"{number} {url!r}", lambda url=url: _in_message(url)  # type: ignore[misc]


def _in_message(url: str) -> object:
    items = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "input_image", "image_url": url},
        {"type": "image", "url": url},
    ]
    for source in images_in([{"role": "user", "content": items}]):
        assert isinstance(source, ImageUrl)
        try:
            open_image(source, allow_urls=True)
        except ImageError as error:
            assert str(error).isprintable()
            if not url.strip().lower().startswith(("http:", "https:", "data:")):
                assert "no data: or http(s) URL" in str(error)
    return open_image(source, allow_urls=True)


@functools.cache
def _pictures() -> list[tuple[str, bytes]]:
    return [(kind, _saved(kind, options)) for kind, options in KINDS]


def _saved(kind: str, options: dict[str, Any]) -> bytes:
    ramp = (np.mgrid[:20, :24].sum(0)[..., None] * [5, 3, 7] % 256).astype(np.uint8)
    image, file, exif = Image.fromarray(ramp), io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    more = {"append_images": [image.rotate(180)]} if options.get("save_all") else {}
    image.save(file, kind, **options, **more, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "TIFF") else {}))
    return file.getvalue()


def _damaged(rng: np.random.Generator, content: bytearray) -> bytes:
    """Flipped, cut, doubled or removed bytes, and numbers of the header that are odd."""
    for _ in range(int(rng.integers(1, 4))):
        kind, place = int(rng.integers(6)), int(rng.integers(max(1, len(content))))
        if kind == 0:
            for each in rng.integers(0, max(1, len(content)), int(rng.integers(1, 20))):
                content[each % max(1, len(content)) : each + 1] = bytes([int(rng.integers(256))])
        elif kind == 1:
            place = int(rng.integers(min(120, max(1, len(content)))))
            width = int(rng.choice([1, 2, 4]))
            value = int(rng.choice(NUMBERS)) & (256**width - 1)
            content[place : place + width] = value.to_bytes(width, "big" if rng.integers(2) else "little")
        elif kind == 2:
            del content[place:]
        elif kind == 3:
            del content[place : place + int(rng.integers(1, 30))]
        elif kind == 4:
            content[place:place] = content[place : place + int(rng.integers(1, 200))] * int(rng.integers(1, 50))
        else:
            content[place:place] = rng.integers(0, 256, int(rng.integers(1, 40)), np.uint8).tobytes()
    return bytes(content)


def _data_url(rng: np.random.Generator, content: bytes) -> str:
    heads = [
        "data:image/png;base64,",
        "data:;base64,",
        "DATA:image/*;BASE64,",
        "data:,",
        "data:image/png,",
        "data:image/svg+xml;base64,",
    ]
    body = base64.b64encode(content if rng.integers(2) else _damaged(rng, bytearray(content))).decode()
    place = int(rng.integers(len(body) + 1))
    noise = str(rng.choice(["", "", "%2B", "\n", "é", "=", "*", "\0"]))
    return str(rng.choice(heads)) + body[:place] + noise + body[place:]


def _address(rng: np.random.Generator) -> str:
    if rng.integers(3) == 0:
        return LITERALS[int(rng.integers(len(LITERALS)))]
    made = "".join(WORDS[int(i)] for i in rng.integers(0, len(WORDS), int(rng.integers(1, 7))))
    if rng.integers(3) == 0:
        return "http://127.0.0.1:9/" + made
    return made if "//" not in made or "127.0.0.1:9" in made else made.replace("//", "//127.0.0.1:9/")
