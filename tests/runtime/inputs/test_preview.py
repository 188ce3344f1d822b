"""The preview's numbers against the processor, and its picture against its numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from idefics2_onnx import Idefics2ImageProcessor, Idefics2Processor
from idefics2_onnx.cli import main
from idefics2_onnx.runtime.commands import speeds as benches
from idefics2_onnx.runtime.commands.own_picture import may_replace
from idefics2_onnx.runtime.inputs.preview import _HATCH, draw, preview
from idefics2_onnx.runtime.model import Idefics2
from parity import photo
from PIL import Image


@pytest.fixture(scope="module")
def processor():
    """With Idefics2's own sizes."""
    return Idefics2Processor(Idefics2ImageProcessor(), Idefics2.from_pretrained().processor.tokenizer)


@pytest.mark.parametrize("splitting", [True, False])
def test_numbers_are_the_processor_s(splitting, processor):
    images = [photo("chelsea"), photo("coffee", 90, 400)]
    shown = preview(processor, images, do_image_splitting=splitting)
    inputs = processor(text="<image> <image>", images=images, do_image_splitting=splitting, add_special_tokens=False)
    numbers = shown.to_dict()
    assert numbers["tokens"] == inputs["input_ids"].shape[1] - 1  # one space between them
    mask = inputs["pixel_attention_mask"][0]
    sizes = [tuple(t["size"].values()) for image in numbers["images"] for t in image["tiles"]]
    assert sizes == [(int(m.any(1).sum()), int(m.any(0).sum())) for m in mask]
    assert tuple(numbers["padded_size"].values()) == mask.shape[1:]
    assert np.array_equal(shown.mask, mask)
    assert [t["place"] for t in numbers["images"][0]["tiles"]][-1] == "whole"


def test_picture_shows_tiles_and_padding(processor):
    red, blue = Image.new("RGB", (400, 400), "red"), Image.new("RGB", (980, 400), "blue")
    picture = np.asarray(draw(preview(processor, [red, blue], do_image_splitting=False), ["a", "b"]))
    assert (picture == (255, 0, 0)).all(-1).sum() > 1000
    assert (picture == (0, 0, 255)).all(-1).sum() > 2 * (picture == (255, 0, 0)).all(-1).sum()
    assert (picture == _HATCH).all(-1).sum() > 1000


def test_command(tmp_path, monkeypatch):
    photo("chelsea").save(tmp_path / "cat.png")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["preview", "cat.png", "cat.png", "-o", "seen.png"])
    assert (result.exit_code, result.stdout) == (0, "seen.png\n")
    assert Image.open("seen.png").width > 100
    result = CliRunner().invoke(main, ["preview", "cat.png", "--no-split", "--json"])
    assert json.loads(result.stdout)["tokens"] == Idefics2.from_pretrained().processor.image_seq_len + 2
    result = CliRunner().invoke(main, ["preview", "cat.png", "-o", "./cat.png"])
    assert result.exit_code == 2
    assert "would be overwritten" in result.stderr
    for arguments, message in (
        (["none.png"], "There is no image file"),
        (["cat.png", "-o", "seen.xyz"], "cannot be written"),
        (["cat.png", "-o", "no/x.png"], "cannot be written"),
    ):
        result = CliRunner().invoke(main, ["preview", *arguments])
        assert result.exit_code == 1
        assert message in result.stderr


def test_only_what_was_drawn_here_is_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo("chelsea", 40, 60).save("cat.png")
    tiles, speed = tmp_path / "tiles.png", tmp_path / "speed.png"
    for contents in (b"precious", (tmp_path / "cat.png").read_bytes(), b""):
        tiles.write_bytes(contents)
        refused = CliRunner().invoke(main, ["preview", "cat.png"])
        assert (refused.exit_code, tiles.read_bytes()) == (2, contents)
        assert "was not drawn here" in refused.stderr
    assert CliRunner().invoke(main, ["preview", "cat.png", "--force"]).exit_code == 0
    assert CliRunner().invoke(main, ["preview", "cat.png"]).exit_code == 0  # its own
    (tmp_path / "tiles.jpg").write_bytes(b"")
    assert CliRunner().invoke(main, ["preview", "cat.png", "-o", "tiles.jpg"]).exit_code == 2
    assert CliRunner().invoke(main, ["preview", "cat.png", "-o", "cat.png", "--force"]).exit_code == 2
    speed.write_bytes(b"precious")
    for name in ("speed.png", "speed"):
        assert "was not drawn here" in CliRunner().invoke(main, ["bench", "--plot", name]).stderr
    assert speed.read_bytes() == b"precious"
    benches.plot([], [], speed)
    assert may_replace(speed)
