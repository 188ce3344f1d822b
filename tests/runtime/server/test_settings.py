from __future__ import annotations

import pytest
from idefics2_onnx import PromptError
from idefics2_onnx.runtime.server import Settings


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rows": 0}, "rows is 0. Give a whole number from 1"),
        ({"queue": True}, "queue is True"),
        ({"name": " "}, "name is ' '"),
        ({"api_keys": ("a b",)}, "api_keys has a key of 3 characters"),
        ({"api_keys": ("",)}, "api_keys"),
        ({"api_keys": "secret"}, "api_keys is 'secret'. Give a tuple"),
        ({"cors": ("example.org",)}, "cors has 'example.org'. Give an origin"),
        ({"cors": ("https://example.org/path",)}, "without a path"),
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"allow_image_urls": ("http://example.org",)}, "no domain"),
        ({"max_body": 0}, "max_body"),
    ],
)
def test_each_setting_is_checked(wrong, said):
    with pytest.raises(PromptError) as caught:
        Settings(**wrong)
    assert said in str(caught.value)


def test_right_ones():
    Settings()
    Settings(cors=("*", "https://example.org:8443"), api_keys=("k",), allow_image_urls=("example.org",), cache_bytes=1)
