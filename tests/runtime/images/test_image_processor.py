"""The image processor against the reference, and what it takes and refuses."""

from __future__ import annotations

import base64
import http.server
import io
import json
import multiprocessing
import os
import threading
import warnings

import numpy as np
import pytest
from idefics2_onnx import Idefics2ImageProcessor, ImageError
from idefics2_onnx.runtime.errors import PromptError
from image_cases import AWKWARD, compare, run_case, smooth
from parity import photo
from PIL import Image
from transformers.image_utils import load_image
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

DEFAULTS = {"do_image_splitting": True}


@pytest.mark.parametrize("block", [0, 1, *(pytest.param(block, marks=pytest.mark.sweep) for block in range(2, 10))])
def test_random_cases_equal_the_reference(block):
    """60 cases of random images and options, 300 with `make test-sweep`; `python tests/support/image_cases.py 5000` runs more."""
    for seed in range(block * 30, block * 30 + 30):
        run_case(seed)


@pytest.mark.parametrize("height", [size for size in AWKWARD if size < 1000])
def test_awkward_sizes_equal_the_reference(height):
    rng = np.random.default_rng(height)
    large = (378, 379, 980, 981)
    for width in (1, 2, large[AWKWARD.index(height) % 4]):  # one axis is resized after the other
        image = Image.fromarray(smooth(rng, height, width, 3))
        assert compare(image, {}) == "equal"
        assert compare(image, DEFAULTS) == ("equal" if height > 1 else "both refused (ZeroDivisionError)")


@pytest.mark.parametrize("size", [(120, 1200), (1200, 120), (37, 370), (3, 12_001), (12_001, 3)])
def test_extreme_shapes_equal_the_reference(size):
    image = Image.fromarray(smooth(np.random.default_rng(0), *size, 3))
    assert compare(image, DEFAULTS) == "equal"
    assert compare([[image], [image.crop((0, 0, 3, 3))]], DEFAULTS) == "equal"


def jpeg(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_files_are_turned_upright_and_pillow_images_are_not(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.jpg"
    path.write_bytes(jpeg(photo("chelsea"), exif=exif))
    processor, reference = Idefics2ImageProcessor(), Idefics2ImageProcessorPil()
    for source in (str(path), Image.open(path)):
        expected = reference(source, return_tensors="np")["pixel_values"]
        assert np.array_equal(processor(source)["pixel_values"], expected)
    upright = processor.tiles([Image.open(path)], upright=True)[0][0]
    assert np.array_equal(upright, reference(load_image(Image.open(path)), return_tensors="np")["pixel_values"][0, 0])


def test_first_frame_of_several(tmp_path):
    frames = [photo("chelsea", 40, 60), photo("astronaut", 40, 60), photo("coffee", 40, 60)]
    for kind, options in (("GIF", {}), ("MPO", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        path = tmp_path / f"several.{kind.lower()}"
        frames[0].save(path, kind, save_all=True, append_images=frames[1:], **options)
        assert getattr(Image.open(path), "n_frames", 1) == 3
        assert np.array_equal(
            Idefics2ImageProcessor()(path)["pixel_values"], np.asarray(Idefics2ImageProcessorPil()(str(path))["pixel_values"])
        )


def test_every_way_to_name_an_image(tmp_path):
    image = photo("chelsea", 90, 120)
    path = tmp_path / "cat.png"
    image.save(path)
    content = path.read_bytes()
    url = "data:image/png;base64," + base64.b64encode(content).decode()
    processor = Idefics2ImageProcessor()
    expected = processor(image)["pixel_values"]
    for source in (path, str(path), content, bytearray(content), io.BytesIO(content), url, np.asarray(image)):
        assert np.array_equal(processor(source)["pixel_values"], expected)
    assert np.array_equal(
        processor([[path], [], [content, url]])["pixel_values"][[0, 2, 2], [0, 0, 1]], np.repeat(expected[0], 3, 0)
    )


def test_urls_only_where_allowed():
    content = jpeg(photo("chelsea", 50, 50))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/cat.jpg" else 404)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/cat.jpg"
        with pytest.raises(ImageError, match="downloads are off. Set allow_urls=True"):
            Idefics2ImageProcessor()(url)
        processor = Idefics2ImageProcessor(allow_urls=True)
        assert np.array_equal(processor(url)["pixel_values"], processor(content)["pixel_values"])
        with pytest.raises(ImageError, match="could not be downloaded"):
            processor(url.replace("cat", "dog"))
        server.shutdown()
    with pytest.raises(ImageError, match="could not be downloaded"):
        processor(url)


def test_options_from_every_place(tmp_path):
    image = photo("chelsea", 300, 200)
    options = {
        "do_image_splitting": True,
        "size": {"shortest_edge": 50, "longest_edge": 99},
        "image_mean": [0.1, 0.2, 0.3],
        "resample": 3,
    }
    expected = Idefics2ImageProcessorPil(**options)(image, return_tensors="np")["pixel_values"]
    constructed = Idefics2ImageProcessor(**options)
    constructed.save_pretrained(tmp_path / "saved")
    Idefics2ImageProcessorPil(**options).save_pretrained(tmp_path / "theirs")
    by_attribute = Idefics2ImageProcessor()
    for name, value in options.items():
        setattr(by_attribute, name, value)
    for processor in (
        constructed,
        Idefics2ImageProcessor.from_pretrained(tmp_path / "saved"),
        Idefics2ImageProcessor.from_pretrained(tmp_path / "theirs"),
        by_attribute,
    ):
        assert np.array_equal(processor(image)["pixel_values"], expected)
        assert processor.to_dict() == constructed.to_dict()
    assert np.array_equal(Idefics2ImageProcessor()(image, **options)["pixel_values"], expected)
    assert np.array_equal(
        Idefics2ImageProcessorPil.from_pretrained(tmp_path / "saved")(image, return_tensors="np")["pixel_values"], expected
    )
    assert not Idefics2ImageProcessor.from_pretrained(tmp_path / "saved", do_image_splitting=False).do_image_splitting
    (tmp_path / "saved" / "processor_config.json").write_text(json.dumps({"image_processor": {"do_pad": False}}))
    assert Idefics2ImageProcessor.from_pretrained(tmp_path / "saved").options.do_pad is False


@pytest.mark.parametrize(
    "options",
    [{"do_split": True}, {"size": 5}, {"size": {"shortest_edge": 5}}, {"size": {"height": 0, "width": 5}}, {"resample": 9}, {"resample": "x"}, {"do_pad": 1}, {"rescale_factor": "1"}, {"image_mean": "a"}, {"image_std": []}, {"data_format": "first"}, {"data_format": np.ones(2)}, {"input_data_format": np.ones((2, 2))}, {"resample": np.ones((2, 2))}, {"do_pad": np.ones((9, 9))}],
)  # fmt: skip
def test_options_that_cannot_be(options):
    (name,) = options
    for use in (lambda: Idefics2ImageProcessor(**options), lambda: Idefics2ImageProcessor()(photo("chelsea"), **options)):
        with pytest.raises(PromptError, match=name) as caught:
            use()
        assert "\n" not in str(caught.value)
    with pytest.raises(PromptError, match=name):
        setattr(Idefics2ImageProcessor(), name, options[name])


@pytest.mark.parametrize(
    "size",
    [{"height": 10**5, "width": 10**5}, {"height": 1, "width": 10**9}, {"height": 10**9, "width": 1}, {"shortest_edge": 1, "longest_edge": 8193}],
)  # fmt: skip
def test_tiles_that_no_memory_holds(size):
    with pytest.raises(PromptError, match="Give smaller edges"):
        Idefics2ImageProcessor(size=size)


def test_rows_on_the_way_to_a_tile_that_no_memory_holds():
    """Pillow changes the width first, of all of the image's rows."""
    processor = Idefics2ImageProcessor(size={"height": 1, "width": 1 << 25})
    with pytest.raises(PromptError, match="Give smaller edges"):
        processor(photo("chelsea", 30, 20))


def nan(shape):
    array = np.zeros(shape, np.float32)
    array[0, 0] = np.nan
    return array


@pytest.mark.parametrize(
    ("image", "match"),
    [
        (nan((5, 5, 3)), r"\d+ values that are NaN"),
        (np.zeros((5, 5, 3), complex), "dtype complex128"),
        (np.array([["a"]]), "shape"),
        (np.zeros((5, 5, 3), object), "dtype object"),
        (np.zeros((5, 5, 2), np.uint8), "without 1, 3 or 4 channels"),
        (np.zeros((5, 5), np.uint8), "shape"),
        (np.zeros((0, 5, 3), np.uint8), "shape"),
        (np.zeros((2, 5, 5, 5, 3), np.uint8), "shape"),
        (np.full((5, 5, 3), 300.0), "values from 300.0 to 300.0"),
        (np.full((5, 5, 4), 7.5, np.float32), "4 float channels"),
        ([[]], "no image"),
        ([], "no image"),
        (None, "NoneType is not an image"),
        (5, "int is not an image"),
        (b"", r"is empty \(0 bytes\)"),
        (b"%PDF-1.7 ...", "is a PDF: render its pages"),
        (b"GIF89a", "is not an image|is damaged"),
        (b"nonsense", "is not an image"),
        ("data:image/png;base64,AAAA", "is not an image"),
        ("data:image/png,AAAA", "no base64"),
        ("data:image/png;base64,A", "not valid base64"),
        ("nowhere.png", "There is no image file"),
        ("x" * 5000, "There is no image file"),
        ("zero\0byte", "There is no image file"),
        ("https://example.org/x.png", "downloads are off"),
        ([["a"], "b"], "mixes images and lists"),
    ],
)  # fmt: skip
def test_images_that_are_refused(image, match):
    with pytest.raises(ImageError, match=match) as caught:
        Idefics2ImageProcessor()(image)
    assert "\n" not in str(caught.value)


def test_two_thousand_corrupted_files():
    """Cut, overwritten and shuffled files of seven formats: an image, or an ImageError, and nothing else."""
    rng = np.random.default_rng(0)
    sources = []
    for kind, options in (
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ):
        buffer = io.BytesIO()
        photo("chelsea", 60, 80).save(buffer, kind, **options)
        sources.append(buffer.getvalue())
    processor = Idefics2ImageProcessor(size={"height": 8, "width": 8}, do_image_splitting=True)
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in range(2000):
            content = bytearray(sources[case % len(sources)])
            kind = rng.integers(4)
            if kind == 0:
                content = content[: rng.integers(0, len(content))]
            elif kind == 1:
                for place in rng.integers(0, len(content), rng.integers(1, 30)):
                    content[place] = rng.integers(256)
            elif kind == 2:
                place = int(rng.integers(0, min(200, len(content))))
                content[place : place + 4] = rng.integers(0, 256, 4, np.uint8).tobytes()
            else:
                start, stop = sorted(rng.integers(0, len(content), 2))
                del content[start:stop]
            try:
                tile = processor(bytes(content))["pixel_values"]
                assert tile.shape == (1, 5, 3, 8, 8)
            except ImageError as error:
                assert "\n" not in str(error)
                refused += 1
    assert 500 < refused < 1900


def test_outputs_are_not_shared_and_inputs_not_changed():
    image = np.asarray(photo("chelsea", 60, 80)).copy()
    before = image.copy()
    first, second = Idefics2ImageProcessor()(image), Idefics2ImageProcessor()(image)
    first["pixel_values"][:] = 7
    assert (image == before).all()
    assert not (second["pixel_values"] == 7).any()


def test_one_lazy_image_many_times(tmp_path):
    """Decoded once, not by two threads at the same time; the same for one open file."""
    path = tmp_path / "large.jpg"
    photo("astronaut").resize((1500, 1200)).save(path)
    processor = Idefics2ImageProcessor(size={"height": 9, "width": 9})
    expected = processor(path)["pixel_values"][0, 0]
    for _ in range(3):
        lazy = Image.open(path)
        assert (processor([lazy] * 5)["pixel_values"] == expected).all()
        with path.open("rb") as file:
            assert (processor([file] * 3)["pixel_values"] == expected).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_works_in_a_forked_process():
    processor, images = Idefics2ImageProcessor(), [photo("chelsea", 40, 40), photo("coffee", 40, 40)]
    processor(images)  # starts the threads
    child = multiprocessing.get_context("fork").Process(target=processor, args=(images,))
    child.start()
    child.join(30)
    assert child.exitcode == 0
