"""The engine: numbers that are not finite, and which graph is to blame."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
from idefics2_onnx import PromptError
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


@pytest.mark.parametrize(
    ("prompts", "counts", "options", "kept", "read"),
    [
        (
            ["<image>one<image>two<image>", "text alone and then some"],
            [3, 0],
            {"num_beams": 3},
            6,
            6,
        ),  # read together, three each
        (["<image>a", "a text that is much longer than the other " * 2], [1, 0], {}, 2, 1),  # and apart
        (["<image>" * 4], [4], {}, 1, 4),
        (["x", "y"], [0, 0], {"num_return_sequences": 2, "do_sample": True}, 4, 2),
    ],
)
def test_images_that_gated_layers_look_at_count_as_room(prompts, counts, options, kept, read, model, monkeypatch):
    """In the cache for each row, which holds what its answer sees; and for each image of the prompts that are read together."""
    ours = model("idefics")
    engine, images = ours.engine, [[photo("chelsea", 40, 40)] * count for count in counts]
    tokens = max(len(ids) for ids in ours.processor.prompt_ids(prompts, images, False, raw=True))
    rows = len(prompts) * max(options.get(name, 1) for name in ("num_beams", "num_return_sequences"))
    per_image = 2 * 4 * 5 * 16 * 4  # keys and values of one gated layer: heads, rows of an image, head_dim, bytes
    assert engine.cache_bytes_per_image == per_image == engine.new_cache(1, 1).nbytes - engine.cache_bytes_per_token
    needed = rows * (tokens * engine.cache_bytes_per_token + 12 * engine.sizes.vocab_size) + (kept + read) * per_image

    look, sights = engine.look, []

    def looked(*given):
        sight = look(*given)
        sights.append(sum(own.nbytes for own in sight.cross.values()))
        return sight

    monkeypatch.setattr(engine, "look", looked)
    monkeypatch.setattr("idefics2_onnx.runtime.engine.engine.total_memory", lambda: needed)
    ours.generate(prompts, images, raw=True, max_new_tokens=1, **options)
    assert max(sights) == read * per_image
    assert engine.new_cache(rows, tokens).nbytes == rows * tokens * engine.cache_bytes_per_token + kept * per_image
    monkeypatch.setattr("idefics2_onnx.runtime.engine.engine.total_memory", lambda: needed - 1)
    words = rf"{rows} rows? of {tokens} prompt tokens and 0\.0 GB of their images' keys and values need"
    with pytest.raises(PromptError, match=words):
        ours.generate(prompts, images, raw=True, max_new_tokens=1, **options)
