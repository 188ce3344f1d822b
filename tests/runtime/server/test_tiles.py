"""What a page shows of what the model sees."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from idefics2_onnx.runtime.inputs.preview import preview
from live_server import EXAMPLES, data_url
from PIL import Image


@pytest.mark.parametrize(("detail", "count"), [(None, 5), ("auto", 5), ("high", 5), ("low", 1)])
def test_tiles_are_the_models(called, demo, detail, count):
    response = called().post("/v1/tiles", json={"image_url": data_url("receipt.png"), "detail": detail})
    tiles = response.json()["tiles"]
    split = None if detail in (None, "auto") else {"do_image_splitting": detail == "high"}
    expected = preview(demo.processor, [(EXAMPLES / "receipt.png").read_bytes()], **(split or {}))
    assert len(tiles) == count
    for tile, own, pixels in zip(tiles, expected.images[0].tiles, expected.pixels, strict=True):
        assert (tile["width"], tile["height"]) == (own.size.width, own.size.height)
        with Image.open(io.BytesIO(base64.b64decode(tile["image"].partition(",")[2]))) as image:
            shown = np.moveaxis(np.asarray(image), -1, 0)
        assert np.array_equal(shown, pixels[:, : own.size.height, : own.size.width])


def test_an_upload(called):
    client = called()
    content = (EXAMPLES / "shapes.png").read_bytes()
    assert len(client.post("/v1/tiles", files={"image": content}).json()["tiles"]) == 5
    assert len(client.post("/v1/tiles", files={"image": content}, data={"detail": "low"}).json()["tiles"]) == 1
    two = client.post("/v1/tiles", files=[("image", content), ("image", content)])
    assert (two.status_code, two.json()["error"]["code"]) == (400, "too_many_images")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "image_url"),
        ({"image_url": 1}, "image_url"),
        ({"image_url": "/etc/hostname"}, "image_url"),
        ({"image_url": "data:image/png;base64,AAAA"}, "image_url"),
        ({"image_url": "x", "detail": "huge"}, "detail"),
        ({"image_url": "x", "size": 1}, "size"),
        ([], None),
    ],
)
def test_what_is_wrong(called, body, param):
    response = called().post("/v1/tiles", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
