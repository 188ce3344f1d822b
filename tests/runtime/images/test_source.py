"""An image's address in a message leads to no file, and says nothing about files."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from idefics2_onnx import ImageError
from idefics2_onnx.runtime.errors import PromptError
from idefics2_onnx.runtime.model import Idefics2
from PIL import Image


def png():
    file = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def model():
    return Idefics2.from_pretrained()


def items(address):
    return [
        {"type": "image_url", "image_url": {"url": address}},
        {"type": "image_url", "image_url": address},
        {"type": "input_image", "image_url": address},
        {"type": "image", "url": address},
    ]


def turn(item):
    return [{"role": "user", "content": [item, {"type": "text", "text": "What is it?"}]}]


@pytest.mark.parametrize("there", [True, False])
def test_no_file_and_no_hint(there, model, tmp_path):
    path = tmp_path / "secret.png"
    if there:
        path.write_bytes(png())
    for address in (
        str(path),
        path,
        f"file://{path}",
        "~/secret.png",
        r"\\host\share\a.png",
        "ftp://a/b",
        "http:/a",
        "",
        None,
        5,
        {},
        ["a"],
    ):
        for item in items(address)[: 4 if isinstance(address, str) else 3]:
            for use in (
                lambda: model.generate(turn(item), max_new_tokens=1),  # noqa: B023
                lambda: list(model.stream(turn(item), max_new_tokens=1)),  # noqa: B023
                lambda: model.score(turn(item), None, "red"),  # noqa: B023
                lambda: model.processor.apply_chat_template(turn(item), tokenize=True),  # noqa: B023
                lambda: model.chat(turn(item)),  # noqa: B023
            ):
                with pytest.raises(ImageError, match="A message's image URL is .*no data: or http"):
                    use()
    with pytest.raises(ImageError, match="downloads are off"):
        model.generate(turn(items("http://127.0.0.1:9/a.png")[0]), max_new_tokens=1)


def test_a_saved_chat_names_no_file(model, tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    chat = model.chat()
    for item in [
        *items(str(tmp_path / "a.png")),
        {"type": "image", "path": str(tmp_path / "a.png")},
        *items("http://127.0.0.1:9/"),
    ]:
        (tmp_path / "chat.json").write_text(json.dumps(turn(item)))
        with pytest.raises(PromptError, match="names the image"):
            chat.load(tmp_path / "chat.json")


def test_data_urls_and_the_app_s_own_paths_are_taken(model, tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    expected = model.generate("What is it?", png(), max_new_tokens=3).token_ids
    url = "data:image/png;base64," + base64.b64encode(png()).decode()
    quoted = url.replace("+", "%2B").replace("=", "%3D").replace("data:", "DATA:")
    own = [{"type": "image", key: value} for key in ("image", "path") for value in (str(tmp_path / "a.png"), tmp_path / "a.png")]
    for item in [*items(url), *items(quoted), *own, {"type": "image", "base64": url.partition(",")[2]}]:
        assert model.generate(turn(item), max_new_tokens=3).token_ids == expected
    inputs = model.processor.apply_chat_template(turn(items(url)[2]), tokenize=True, return_dict=True, add_generation_prompt=True)
    assert np.array_equal(inputs["pixel_values"], model.processor.image_processor(png())["pixel_values"])
