"""transformers.js opens folders in its layout, and answers from them as Python does from this package's."""

from __future__ import annotations

import pytest
from idefics2_onnx import Idefics2
from idefics2_onnx.export import export_model
from idefics2_onnx.runtime.folder import DEMO
from in_node import in_node

pytestmark = pytest.mark.javascript


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_answer(dtype, folder_of, tmp_path):
    export_model("demo/checkpoint", tmp_path / "js", dtype, verify="never", layout="transformers.js")
    picture, question = "examples/shapes.png", "What is in the picture?"
    job = {"layout": str(tmp_path / "js"), "dtype": dtype, "picture": picture, "question": question, "maxNewTokens": 96}
    found = in_node("transformersJs", folder=str(DEMO), changes={"idefics2_onnx.json": {"dtype": dtype}}, **job)
    wanted = Idefics2.from_pretrained(folder_of(dtype), device="cpu").generate(question, images=[picture], max_new_tokens=96)
    assert found == [int(token) for token in wanted.token_ids]
