"""The engine: numbers that are not finite, and which graph is to blame."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
from idefics2_onnx.graphs.errors import ModelFolderError
from idefics2_onnx.runtime.folder import DEMO
from idefics2_onnx.runtime.model import Idefics2
from manifest_edits import listed
from parity import photo, photos


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("graph", "precision"), [("decoder", "fp32"), ("decoder", "fp16"), ("vision", "fp16")])
def test_numbers_that_are_not_finite_stop_with_the_graph_and_precision(bad, graph, precision, exported, tmp_path):
    """One weight is not finite, as one activation of a real fp16 model may be."""
    folder = shutil.copytree(exported("plain", precision), tmp_path / "model")
    found = onnx.load(folder / f"{graph}.onnx", load_external_data=False).graph.initializer
    name = {"decoder": "text_model.norm.weight", "vision": "connector.perceiver_resampler.norm.weight"}[graph]
    (tensor,) = [tensor for tensor in found if tensor.name == name]
    place = {entry.key: entry.value for entry in tensor.external_data}
    numbers = np.memmap(
        folder / place["location"], onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type), "r+", int(place["offset"]), (4,)
    )
    numbers[3] = bad
    numbers.flush()
    listed(folder, place["location"])
    ours = Idefics2.from_pretrained(folder)
    with pytest.raises(ModelFolderError, match=rf"{graph}.onnx \({precision}\) computed numbers that are not finite"):
        ours.generate("<image>", photos()[0], raw=True)
    if graph == "decoder":
        for options in ({"num_beams": 2}, {"prompt_lookup_num_tokens": 3}, {"do_sample": True}):
            with pytest.raises(ModelFolderError, match="decoder.onnx"):
                ours.generate("x", raw=True, **options)


@pytest.mark.parametrize("images", [None, [photo("chelsea", 40, 40)]])
def test_the_graph_that_read_the_prompt_is_the_one_that_is_blamed(images, monkeypatch):
    """In a folder with one for prompts, text alone included."""
    ours = Idefics2.from_pretrained(DEMO)
    sessions = replace(ours.engine.sessions, prompt=ours.engine.sessions.embedding)
    ours._engine = type(ours.engine)(sessions, ours.engine.sizes, ours.engine.precision | {"prompt": "int8"})
    monkeypatch.setattr(ours.engine, "decode", lambda *_: np.full((1, 1, ours.engine.sizes.vocab_size), np.nan, np.float32))
    with pytest.raises(ModelFolderError, match=r"prompt.onnx \(int8\) computed numbers that are not finite"):
        ours.generate("What?", images)
