"""What a prompt has to be before the model takes it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from idefics2_onnx.graphs.contract import MANIFEST
from idefics2_onnx.graphs.errors import ModelFolderError
from idefics2_onnx.runtime.errors import PromptError
from idefics2_onnx.runtime.model import Idefics2
from idefics2_onnx.runtime.sample import Sample


def sample(model, height, width):
    sizes = model.engine.sizes
    return Sample([5, *[sizes.image_token_id] * sizes.tokens_per_image], [np.zeros((3, height, width), model.engine.pixel_type)])


def test_images_as_large_as_the_table_of_positions(model):
    """Larger than the model's own side: the reference takes them, too."""
    ours = model("plain")
    sizes = ours.engine.sizes
    most = (sizes.max_patches + 1) * sizes.patch_size - 1
    assert most > sizes.positions_per_side * sizes.patch_size
    for height, width in ((14, most), (most, 14)):
        sample(ours, height, width).check(sizes, 1)
        (features,) = ours.engine.encode_images(sample(ours, height, width).tiles)
        assert np.isfinite(features.read()).all()
    for height, width in ((14, most + 1), (most + 1, 14)):
        with pytest.raises(PromptError, match=rf"An image is {width}×{height} pixels, and this model takes {most} a side"):
            sample(ours, height, width).check(sizes, 1)


def test_a_folder_of_another_architecture_is_refused(exported, tmp_path):
    folder = exported("plain")
    for path in folder.iterdir():
        if path.name != MANIFEST:
            (tmp_path / path.name).hardlink_to(path)
    manifest = json.loads((folder / MANIFEST).read_text())
    for architecture, words in (
        ("idefics", "precision.cross is None"),
        ("llava", "architecture is 'llava'"),
        (None, "architecture is None"),
    ):
        (tmp_path / MANIFEST).write_text(json.dumps(manifest | {"architecture": architecture}))
        with pytest.raises(ModelFolderError, match=words):
            Idefics2.from_pretrained(tmp_path)
