"""IDEFICS' image processor against the reference, on the suite's random images."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from idefics2_onnx import IdeficsImageProcessor, ImageError, ModelFolderError, PromptError
from image_cases import AWKWARD, random_images, random_options, smooth
from parity import photo
from PIL import Image
from transformers.models.idefics.image_processing_pil_idefics import IdeficsImageProcessorPil

_ONLY_IDEFICS2 = ("do_pad", "do_image_splitting")


def compare(images, options) -> str:
    """Run both; "equal", or what both of them raised. AssertionError where they differ."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = np.stack(list(IdeficsImageProcessorPil(**options)(images, return_tensors="np")))  # a list of unequal ones
        except Exception as error:
            expected, reason = None, type(error).__name__
        try:
            found = IdeficsImageProcessor(**options)(images)
        except (ImageError, PromptError) as error:
            assert expected is None, f"only ours refused: {error}"
            return f"both refused ({reason})"
    assert expected is not None, f"only the reference refused: {reason}"
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert np.array_equal(found, expected, equal_nan=found.dtype.kind == "f")
    return "equal"


@pytest.mark.parametrize("block", [0, *(pytest.param(block, marks=pytest.mark.sweep) for block in range(1, 20))])
def test_random_cases_equal_the_reference(block):
    equal = 0
    for seed in range(block * 25, block * 25 + 25):
        rng = np.random.default_rng(seed)
        images, options = random_images(rng), random_options(rng)
        options = {name: value for name, value in options.items() if name not in _ONLY_IDEFICS2}
        if "shortest_edge" in options.get("size", ()):
            del options["size"]
        equal += compare(images, options) == "equal"
    assert equal > 8


def test_awkward_sizes_equal_the_reference():
    rng = np.random.default_rng(0)
    for height in [*AWKWARD, 223, 224, 225]:
        for width in (1, 333):
            assert compare(Image.fromarray(smooth(rng, height, width, 3)), {}) == "equal"


def test_options_by_the_names_of_old_checkpoints(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_num_channels": 3, "image_processor_type": "IdeficsImageProcessor", "image_size": 28, "processor_class": "IdeficsProcessor"}'
    )
    ours = IdeficsImageProcessor.from_pretrained(tmp_path)
    assert (ours.image_size, ours.size) == (28, {"height": 28, "width": 28})
    picture = photo("chelsea")
    assert np.array_equal(ours(picture), IdeficsImageProcessorPil.from_pretrained(tmp_path)(picture, return_tensors="np"))
    ours.image_size = 30
    ours.save_pretrained(tmp_path / "saved")
    saved = IdeficsImageProcessorPil.from_pretrained(tmp_path / "saved")
    assert np.array_equal(ours([picture]), saved(picture, return_tensors="np"))
    for options in (
        {"size": {"shortest_edge": 3, "longest_edge": 4}},
        {"do_pad": True},
        {"image_num_channels": 1},
        {"image_size": 0},
    ):
        with pytest.raises(PromptError):
            ours(picture, **options)
    with pytest.raises(ModelFolderError, match="no image options"):
        IdeficsImageProcessor.from_pretrained(tmp_path / "saved" / "..", subfolder="nowhere")
