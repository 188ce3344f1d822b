"""What a stranger's picture may be, take and touch: its format, its memory and time, and nothing of the application's."""

from __future__ import annotations

import base64
import io
import json
import locale
import os
import random
import re
import signal
import socket
import sys
import threading
import urllib.request
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from click.testing import CliRunner
from hostile_pictures import cases
from idefics2_onnx import ImageError
from idefics2_onnx.cli import main
from idefics2_onnx.runtime.images import jpeg_markers
from idefics2_onnx.runtime.images.decoding_cost import decoding_cost
from idefics2_onnx.runtime.images.jpeg_markers import jpeg_work
from idefics2_onnx.runtime.images.source import open_image, read_image
from idefics2_onnx.runtime.images.tiff_tables import MAX_TILES
from idefics2_onnx.runtime.model import Idefics2
from PIL import EpsImagePlugin, Image, ImageFile, TiffImagePlugin

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
PIXELS = np.mgrid[:40, :48].sum(0).astype(np.uint8)


def saved(kind="PNG", mode="RGB", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(file, kind, **options)
    return file.getvalue()


def test_hostile_pictures_and_addresses():
    """500 cases; `python tests/fuzz/hostile_fuzz.py --kinds pictures` runs more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _, attempt in cases(7, 500):
            try:
                attempt()
            except ImageError as error:
                assert "\n" not in str(error)


def test_no_program_is_started_for_a_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript"))
    monkeypatch.setattr(os, "posix_spawn", lambda *_, **__: pytest.fail("a program"), raising=False)
    Image.init()  # with all of Pillow's plug-ins there
    path = tmp_path / "photo.png"
    path.write_bytes(POSTSCRIPT)
    chat = Idefics2.from_pretrained().chat()
    url = "data:image/png;base64," + base64.b64encode(POSTSCRIPT).decode()
    for source in (path, str(path), POSTSCRIPT, io.BytesIO(POSTSCRIPT), url):
        for use in (open_image, read_image, lambda image: chat.send("What?", image)):
            with pytest.raises(ImageError, match="is a PostScript file.*Give a JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, AVIF"):
                use(source)
    result = CliRunner().invoke(main, ["preview", str(path), "--json"])
    assert (result.exit_code, "is a PostScript file" in result.stderr) == (1, True)


@pytest.mark.parametrize("kind", ["ICO", "PCX", "TGA", "SGI", "JPEG2000", "DDS", "ICNS", "MSP", "XBM", "EPS", "PDF"])
def test_other_formats_are_refused(kind):
    with pytest.raises(ImageError, match="^The image is "):
        open_image(saved(kind, mode="1" if kind in ("MSP", "XBM") else "RGB"))


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"\0\0\0\x18ftypheic", "HEIF file"), (b"\0\0\0\x18ftypisom", "video"), (b"\xff\x0a", "JPEG XL"), (b"8BPS", "Photoshop"),
        (b"<!DOCTYPE html>", "XML or HTML"), (b"  <svg xmlns=", "SVG"), (b"PK\x03\x04", "archive"), (b"\xd7\xcd\xc6\x9a", "metafile"),
    ],
)  # fmt: skip
def test_what_it_is_instead(start, what):
    with pytest.raises(ImageError, match=what):
        open_image(start.ljust(99, b"\0"))


def test_a_plug_in_for_heif_is_used(monkeypatch):
    def heif(file, name):
        image = Image.open(io.BytesIO(saved()))
        image.format = "HEIF"
        return image

    monkeypatch.setitem(Image.OPEN, "HEIF", (heif, lambda prefix: prefix[4:12] == b"ftypheic"))
    assert open_image(b"\0\0\0\x18ftypheic").size == (48, 40)


@pytest.mark.parametrize(
    ("kind", "mode", "options", "per_pixel"),
    [
        ("JPEG", "RGB", {}, 4), ("JPEG", "L", {}, 5), ("JPEG", "CMYK", {}, 8), ("JPEG", "L", {"progressive": True}, 7),
        ("JPEG", "RGB", {"progressive": True, "subsampling": 0}, 10), ("JPEG", "RGB", {"progressive": True, "subsampling": 2}, 7),
        ("PNG", "RGB", {}, 4), ("PNG", "RGBA", {}, 8), ("PNG", "I;16", {}, 6), ("GIF", "P", {}, 5), ("BMP", "RGB", {}, 4),
        ("WEBP", "RGB", {}, 16), ("AVIF", "RGB", {"speed": 10}, 16), ("PPM", "RGB", {}, 4), ("TIFF", "RGB", {}, 7),
    ],
)  # fmt: skip
def test_what_decoding_takes_is_known_before(kind, mode, options, per_pixel, monkeypatch):
    content = saved(kind, mode, **options)
    with Image.open(file := io.BytesIO(content)) as image:
        assert decoding_cost(image, file, jpeg_work(file)).nbytes == per_pixel * PIXELS.size
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", PIXELS.size / 2)
    if per_pixel <= 7:
        assert open_image(content).size == (48, 40)
        return
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    with pytest.raises(ImageError, match=f"would take {per_pixel * PIXELS.size:,} bytes.*more than the limit of 13,440"):
        open_image(content)


def test_a_turned_picture_takes_a_copy_more():
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("PNG", "JPEG"):
        with Image.open(file := io.BytesIO(saved(kind, exif=exif))) as image:
            assert decoding_cost(image, file, jpeg_work(file)).nbytes == 8 * PIXELS.size


def many_scans(count, exif=b""):
    """A progressive JPEG whose last scan comes so often."""
    content = saved("JPEG", progressive=True, **({"exif": exif} if exif else {}))
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * count + content[-2:]


def test_scans_are_counted(monkeypatch):
    own = jpeg_work(io.BytesIO(many_scans(0))).scans
    assert own == 10
    assert jpeg_work(io.BytesIO(many_scans(290))).scans == 300
    thumbnail = b"Exif\0\0" + many_scans(20)
    assert jpeg_work(io.BytesIO(many_scans(0, thumbnail) + many_scans(9))).scans == own  # nor what is behind the end
    assert jpeg_work(io.BytesIO(saved("JPEG"))) == (1, 0)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", PIXELS.size)  # of which it has half: 24 scans are allowed
    assert open_image(many_scans(14)).size == (48, 40)
    with pytest.raises(ImageError, match="would be gone over 25 times"):
        open_image(many_scans(15))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5 * PIXELS.size)
    with pytest.raises(ImageError, match="would be gone over 600 times"):
        open_image(b"P3 48 40 255\n" + b"7 " * 3 * PIXELS.size)


def test_segments_of_a_jpeg_are_bounded(monkeypatch):
    segment, content = b"\xff\xe1\0\x0aExif\0\0xx", saved("JPEG")
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(ImageError, match="more than 10,000 segments"):
        open_image(content[:2] + segment * 10_000 + content[2:])
    monkeypatch.setattr(jpeg_markers, "MAX_HEADER", 500)
    with pytest.raises(ImageError, match="more than 500 bytes in front of its pixels"):
        open_image(content[:2] + segment * 50 + content[2:])


@pytest.mark.parametrize("big", [False, True])
def test_tables_of_a_tiff_are_bounded(big, monkeypatch):
    content = bytearray(saved("TIFF", big_tiff=big))
    entry = re.search(rb"\x11\x01[\x03\x04\x10]\x00", content).start()  # StripOffsets: tag, type, count
    content[entry + 4 : entry + 8] = (MAX_TILES + 1).to_bytes(4, "little")
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(ImageError, match="has 1,048,577 strips or tiles"):
        open_image(bytes(content))


def test_a_tile_of_a_tiff_is_decoded_whole():
    with Image.open(file := io.BytesIO(saved("TIFF", compression="tiff_lzw"))) as image:
        image.tag_v2[TiffImagePlugin.TILEWIDTH], image.tag_v2[TiffImagePlugin.TILELENGTH] = 60_000, 50_000
        assert decoding_cost(image, file, jpeg_work(file)).nbytes > 9_000_000_000


@pytest.mark.parametrize(("pixels", "limit", "taken"), [(49, 49, True), (50, 49, False), (50, 50, True), (51, 50, False)])
def test_the_option_means_the_number_that_is_typed(pixels, limit, taken, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    Image.new("RGB", (1, pixels)).save(tmp_path / "a.png")
    result = CliRunner().invoke(
        main, ["preview", str(tmp_path / "a.png"), "--no-split", "--json", "--max-image-pixels", str(limit)]
    )
    assert (result.exit_code == 0) == taken
    assert taken or f"more pixels than the limit of {limit}." in result.stderr


def test_the_application_s_warnings_hold(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", PIXELS.size - 1)
    with pytest.warns(Image.DecompressionBombWarning):
        open_image(saved())
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with pytest.raises(ImageError, match="more pixels than the limit of 1,919"):
            open_image(saved())


def state_of_the_process():
    return {
        "warnings": list(warnings.filters),
        "pillow": (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, ImageFile.MAXBLOCK),
        "locale": locale.setlocale(locale.LC_ALL),
        "environment": dict(os.environ),
        "folder": os.getcwd(),  # noqa: PTH109
        "signals": [signal.getsignal(number) for number in signal.valid_signals()],
        "random": (random.getstate(), json.dumps(np.random.get_state(legacy=False), default=str)),
        "numpy": np.geterr(),
        "network": (socket.getdefaulttimeout(), urllib.request._opener, urllib.request.getproxies()),
        "python": (
            sys.getrecursionlimit(),
            sys.getswitchinterval(),
            sys.excepthook,
            threading.excepthook,
            os.umask(os.umask(0o22) or 0o22),
        ),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
    }


def test_nothing_of_the_process_is_changed():
    url = "data:image/png;base64," + base64.b64encode(saved()).decode()
    message = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}]}]
    before = state_of_the_process()
    model = Idefics2.from_pretrained()
    with ThreadPoolExecutor(8) as threads:
        options = {"max_new_tokens": 2, "do_sample": True, "seed": 3}
        prompts = [(["What?"], [saved(kind)]) for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")] + [(message, None)] * 2
        assert all(threads.map(lambda prompt: model.generate(*prompt, **options), prompts))
    chat = model.chat(max_new_tokens=2)
    chat.send("What?", saved())
    with pytest.raises(ImageError):
        open_image("http://127.0.0.1:9/a.png", allow_urls=True)
    assert state_of_the_process() == before


@pytest.mark.parametrize("use", [open_image, read_image])
def test_files_that_cannot_be_read(use, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(saved())
    with path.open("rb") as closed:
        pass
    with path.open("w+b") as written, path.open("ab") as appended, (tmp_path / "t").open("w+") as text:
        for source, words in [
            (closed, "is closed"), (written, r"is empty \(0 bytes\)"), (appended, "cannot be read"), (text, "gives str, not bytes"),
            (io.StringIO("x"), "gives str, not bytes"), (tmp_path, "is not a file"), (b"", "is empty"), ("file:///etc/passwd", "no image file"),
            ("~/none.png", "no image file"), (r"\\host\share\a.png", "no image file"), ("a\nb\x1b[31m.png", r"a\\nb\\x1b"), (5, "A int is not"),
        ]:  # fmt: skip
            with pytest.raises(ImageError, match=words) as caught:
                use(source)
            assert str(caught.value).isprintable()
    file = io.BytesIO(saved())
    file.seek(99)  # as after a first reading
    assert use(file) is not None


def test_files_without_permission(tmp_path):
    (tmp_path / "a.png").write_bytes(saved())
    (tmp_path / "a.png").chmod(0)
    if os.access(tmp_path / "a.png", os.R_OK):
        pytest.skip("everything may be read here")
    with pytest.raises(ImageError, match="cannot be read"):
        open_image(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["-", "pipe"])
def test_images_from_stdin_and_pipes(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(saved()), daemon=True).start()
    result = CliRunner().invoke(main, ["preview", name, "--json"], input=saved())
    assert json.loads(result.stdout)["images"][0]["size"] == {"height": 40, "width": 48}
    assert "Put the question last" in CliRunner().invoke(main, ["run", "-"]).stderr
    assert "stdin holds the conversation" in CliRunner().invoke(main, ["chat", "-"]).stderr
