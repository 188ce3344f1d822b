"""IDEFICS' four graphs as a host meets them, beside transformers: plain ONNX Runtime calls, NumPy between them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from idefics2_onnx.graphs.contract import (
    GRAPHS_OF,
    MANIFEST,
    OPERATORS,
    Manifest,
    TensorSpec,
    graph_file,
    interface,
    key_value_names,
)
from small_idefics import SMALL_IDEFICS
from transformers import IdeficsForVisionText2Text

EOS, STEPS = 2, 6
FLOOR = 1e-5
"""Largest difference of features and logits whose standard deviation is near 1."""
SWEPT = ("idefics_deep", "idefics_four", "idefics_no_perceiver", "idefics_one", "idefics_hub", "idefics_plain")


@dataclass(frozen=True)
class Prompts:
    """Ragged rows with pictures between, before and after words, and one without any."""

    rows: list[list[int]]
    pictures: list[np.ndarray]
    """Of each row, float32 [own, 3, side, side]."""
    masks: list[np.ndarray]
    """Of each row, int64 [seq, own or 1]."""

    @classmethod
    def of(cls, image: int, side: int) -> Prompts:
        dice = np.random.default_rng(7)
        fake = image - 1

        def text(count: int) -> list[int]:
            return dice.integers(3, 250, count).tolist()

        one, more = [fake, image, fake], [image, fake]
        rows = [
            [1, *text(3), *one, *text(4), *one, *more, *text(2)],
            [1, *text(5)],
            [1, *one, *text(3), EOS, *text(2), *one, *text(1)],  # nothing is seen behind the end until the next picture
            [1, *one, *text(2), EOS],
        ]
        pictures = [dice.standard_normal((row.count(image), 3, side, side)).astype(np.float32) for row in rows]
        return cls(rows, pictures, [_last_seen(row, image) for row in rows])


def _last_seen(ids: list[int], image: int) -> np.ndarray:
    """The processor's rule: a token sees the last picture at or before it, and none behind the end of a text."""
    mask, count, ended = np.zeros((len(ids), max(1, ids.count(image))), np.int64), -1, False
    for place, token in enumerate(ids):
        if token == image:
            count, ended = count + 1, False
        if count >= 0 and not ended:
            mask[place, count] = 1
        ended = ended or token == EOS
    return mask


@dataclass(frozen=True)
class Host:
    """The graphs of a folder."""

    folder: object

    @cached_property
    def manifest(self) -> Manifest:
        return Manifest.from_dict(json.loads((self.folder / MANIFEST).read_text()))

    @cached_property
    def sessions(self) -> dict[str, ort.InferenceSession]:
        providers = ["CPUExecutionProvider"]
        return {g: ort.InferenceSession(self.folder / graph_file(g), providers=providers) for g in self.manifest.graphs}

    @property
    def dtype(self) -> type:
        return np.float16 if self.manifest.dtype == "fp16" else np.float32

    def features(self, pictures: np.ndarray) -> np.ndarray:
        return self.sessions["vision"].run(None, {"pixel_values": pictures.astype(self.dtype)})[0]

    def cross(self, features: list[np.ndarray], count: int) -> dict[str, np.ndarray]:
        """Keys and values of each row's pictures, zeros in the place of those that it has not."""
        sizes = self.manifest.model
        rows = np.zeros((len(features), count, sizes.image_seq_len, sizes.vision_width), self.dtype)
        for row, own in zip(rows, features, strict=True):
            row[: len(own)] = own
        found = self.sessions["cross"].run(None, {"image_features": rows.reshape(len(rows), -1, sizes.vision_width)})
        return dict(zip(key_value_names(sizes.num_cross_layers, "cross"), found, strict=True))

    def decode(self, ids, attention_mask, image_mask, positions, cache, cross):
        embeds = self.sessions["embedding"].run(None, {"input_ids": ids})[0]
        given = {"inputs_embeds": embeds, "attention_mask": attention_mask, "image_attention_mask": image_mask}
        logits, *present = self.sessions["decoder"].run(None, given | {"logit_positions": positions} | cache | cross)
        return logits, dict(zip(cache, present, strict=True))

    def cache(self, batch: int, room: int) -> dict[str, np.ndarray]:
        sizes = self.manifest.model
        shape = batch, sizes.num_key_value_heads, room, sizes.head_dim
        return {name: np.zeros(shape, self.dtype) for name in key_value_names(sizes.num_layers, "past_key_values")}

    def answer(self, prompts: Prompts, steps: int = STEPS) -> tuple[list[np.ndarray], np.ndarray]:
        """Logits of each prompt's tokens, and of each greedy step [rows, steps, vocab], in one right-padded batch."""
        lengths = np.array([len(row) for row in prompts.rows])
        batch, width, count = len(lengths), int(lengths.max()), max(mask.shape[1] for mask in prompts.masks)
        ids, image_mask = np.zeros((batch, width), np.int64), np.zeros((batch, width, count), np.int64)
        for row, (own, mask) in enumerate(zip(prompts.rows, prompts.masks, strict=True)):
            ids[row, : len(own)], image_mask[row, : len(own), : mask.shape[1]] = own, mask
        cross = self.cross([self.features(p) if len(p) else p[:, 0, :1, :1] for p in prompts.pictures], count)
        every = np.broadcast_to(np.arange(width), (batch, width))
        seen = (np.arange(width) < lengths[:, None]).astype(np.int64)
        logits, cache = self.decode(ids, seen, image_mask, every, self.cache(batch, width + steps), cross)
        read = [logits[row, :length] for row, length in enumerate(lengths)]
        last = image_mask[np.arange(batch), lengths - 1][:, None]  # what a prompt's last token sees is seen for ever
        found = [np.stack([own[-1] for own in read])]
        for step in range(1, steps):
            seen = (np.arange(width + steps) < (lengths + step)[:, None]).astype(np.int64)
            tokens = found[-1].argmax(-1)[:, None]
            logits, cache = self.decode(tokens, seen, last, np.zeros((batch, 1), np.int64), cache, cross)
            found.append(logits[:, 0])
        return read, np.stack(found, 1)


@dataclass(frozen=True)
class Expected:
    """The reference's features and logits."""

    features: list[np.ndarray]
    read: list[np.ndarray]
    steps: np.ndarray

    @classmethod
    @torch.no_grad()
    def of(cls, checkpoint, prompts: Prompts) -> Expected:
        model = IdeficsForVisionText2Text.from_pretrained(checkpoint, dtype=torch.float32).eval()
        width, count = max(map(len, prompts.rows)), max(mask.shape[1] for mask in prompts.masks)
        ids, seen = (torch.zeros(len(prompts.rows), width, dtype=torch.long) for _ in range(2))
        image_mask = torch.zeros(*ids.shape, count, dtype=torch.long)
        pixels = torch.zeros(len(ids), count, *prompts.pictures[0].shape[1:])
        for row, (own, mask, pictures) in enumerate(zip(prompts.rows, prompts.masks, prompts.pictures, strict=True)):
            start = width - len(own)  # padded on the left, as it generates
            ids[row, start:], seen[row, start:] = torch.tensor(own), 1
            image_mask[row, start:, : mask.shape[1]], pixels[row, : len(pictures)] = torch.tensor(mask), torch.tensor(pictures)
        given = {"input_ids": ids, "attention_mask": seen, "pixel_values": pixels, "image_attention_mask": image_mask}
        full = model(**given)
        answer = model.generate(
            **given, max_new_tokens=STEPS, do_sample=False, eos_token_id=None, output_logits=True, return_dict_in_generate=True
        )
        hidden = full.image_hidden_states
        hidden = hidden.view(len(ids), count, -1, hidden.shape[-1])
        return cls(
            [hidden[row, : len(pictures)].numpy() for row, pictures in enumerate(prompts.pictures)],
            [full.logits[row, width - len(own) :].numpy() for row, own in enumerate(prompts.rows)],
            torch.stack(answer.logits, 1).numpy(),
        )


@pytest.fixture(scope="module")
def host(exported):
    hosts: dict[object, Host] = {}
    return lambda *key: hosts.setdefault(exported(*key), Host(exported(*key)))


@pytest.fixture(scope="module")
def told(checkpoint, host):
    """Prompts for a model, and the reference's numbers for them."""
    found: dict[str, tuple[Prompts, Expected]] = {}

    def make(name: str) -> tuple[Prompts, Expected]:
        if name not in found:
            config, ids = (
                SMALL_IDEFICS[name].config,
                json.loads((checkpoint(name) / "tokenizer.json").read_text())["added_tokens"],
            )
            image = next(token["id"] for token in ids if token["content"] == "<image>")
            prompts = Prompts.of(image, config.vision_config.image_size)
            found[name] = prompts, Expected.of(checkpoint(name), prompts)
        return found[name]

    return make


def _case(name: str, flavour: str):
    """Tracing takes most of the time: a model's other flavour is for the sweep."""
    swept = name in SWEPT or flavour != SMALL_IDEFICS[name].flavours[0]
    return pytest.param(name, flavour, marks=[pytest.mark.sweep] if swept else [])


@pytest.mark.parametrize(
    ("name", "flavour"), [_case(name, flavour) for name, small in SMALL_IDEFICS.items() for flavour in small.flavours]
)
def test_numbers_are_the_references(name, flavour, host, told):
    """Features, a ragged batch of prompts, and greedy steps over one cache: the same tokens, too."""
    prompts, expected = told(name)
    ours = host(name, "fp32", flavour)
    for pictures, features in zip(prompts.pictures, expected.features, strict=True):
        if len(pictures):
            assert np.abs(ours.features(pictures) - features).max() <= FLOOR
    read, steps = ours.answer(prompts)
    assert max(np.abs(a - b).max() for a, b in zip(read, expected.read, strict=True)) <= FLOOR
    assert np.abs(steps - expected.steps).max() <= FLOOR
    assert (steps.argmax(-1) == expected.steps.argmax(-1)).all()


@pytest.mark.parametrize(
    ("name", "flavour"), [("idefics_one", "fused"), pytest.param("idefics_odd", "standard", marks=pytest.mark.sweep)]
)
def test_half_precision_is_near(name, flavour, host, told):
    prompts, expected = told(name)
    ours = host(name, "fp16", flavour)
    (read, _), features = ours.answer(prompts, 1), ours.features(prompts.pictures[0])
    for found, wanted in ((np.concatenate(read), np.concatenate(expected.read)), (features, expected.features[0])):
        assert np.linalg.norm(found - wanted) <= 1e-2 * np.linalg.norm(wanted)


def test_mistakes_are_seen(host, told):
    """What a wrong mask or wrong pictures change is far above the floor, where pictures are seen, and nothing else."""
    prompts, expected = told("idefics")
    ours = host("idefics", "fp32", "fused")

    def off(masks=prompts.masks, pictures=prompts.pictures) -> list[float]:
        read, _ = ours.answer(dataclasses.replace(prompts, masks=masks, pictures=pictures), 1)
        return [float(np.abs(a - b).max()) for a, b in zip(read, expected.read, strict=True)]

    assert max(off()) <= FLOOR
    late = off([np.concatenate([mask[:1] * 0, mask[:-1]]) for mask in prompts.masks])
    blind = off([mask * 0 for mask in prompts.masks])
    every = off([np.maximum.accumulate(mask, 0) for mask in prompts.masks])
    swapped = off(pictures=[pictures[::-1] for pictures in prompts.pictures])
    assert min(late[0], late[2], late[3], blind[0], blind[2], blind[3], every[0], every[2], swapped[0], swapped[2]) > 0.01
    assert max(late[1], blind[1], every[1], swapped[1], swapped[3]) <= FLOOR


def test_prompts_are_read_in_pieces_and_old_pictures_left_out(host, told):
    """A piece behind a past takes its own rows of the mask; pictures that no later token sees need not stay."""
    prompts, expected = told("idefics")
    ours = host("idefics", "fp32", "fused")
    ids, mask, features = prompts.rows[0], prompts.masks[0], ours.features(prompts.pictures[0])
    cut = ids.index(prompts.rows[0][5]) + 4
    cache, found = ours.cache(1, len(ids)), []
    for start, stop in ((0, cut), (cut, len(ids))):
        seen = np.flatnonzero(mask[start:stop].any(0))
        cross = ours.cross([features[seen]], len(seen))
        given = np.array([ids[start:stop]]), np.ones((1, stop), np.int64), mask[None, start:stop][..., seen]
        logits, cache = ours.decode(*given, np.arange(stop - start)[None], cache, cross)
        found.append(logits[0])
    assert np.abs(np.concatenate(found) - expected.read[0]).max() <= FLOOR


@pytest.mark.parametrize(
    ("name", "precision"),
    [("idefics", "fp32"), ("idefics_one", "fp16"), pytest.param("idefics", "bf16", marks=pytest.mark.sweep)],
)
def test_interfaces_and_operators_are_the_contracts(name, precision, exported):
    folder = exported(name, precision)
    manifest = Host(folder).manifest
    assert manifest.graphs == ("vision", "cross", "embedding", "decoder")
    names = {1: "float", 10: "float16", 16: "bfloat16", 7: "int64"}

    def spec(value) -> TensorSpec:
        axes = tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim)
        return TensorSpec(value.name, f"tensor({names[value.type.tensor_type.elem_type]})", axes)

    for graph in manifest.graphs:
        proto = onnx.load(folder / graph_file(graph), load_external_data=False)
        expected = interface(graph, precision, manifest.model)
        assert tuple(map(spec, proto.graph.input)) == expected.inputs
        assert tuple(map(spec, proto.graph.output)) == expected.outputs
        assert {(node.domain, node.op_type) for node in proto.graph.node} <= OPERATORS
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)


def test_standard_flavour_has_only_standard_operators(exported):
    for graph in GRAPHS_OF["idefics"]:
        path = exported("idefics_odd", "fp32", "standard") / graph_file(graph)
        onnx.checker.check_model(str(path), full_check=True)
        nodes = onnx.load(path, load_external_data=False).graph.node
        assert {(node.domain, node.op_type) for node in nodes} <= {name for name in OPERATORS if not name[0]}


def test_a_step_computes_shapes_on_the_host_only(exported):
    """As in test_contract.py: a step that used them as numbers could not be recorded as a CUDA graph."""
    proto = onnx.load(exported("idefics") / "decoder.onnx", load_external_data=False)
    known = {i.name for i in proto.graph.initializer} | {n.output[0] for n in proto.graph.node if n.op_type == "Constant"}
    on_host: set[str] = set()
    for node in proto.graph.node:
        if set(node.input) <= known:
            known.update(node.output)
        elif node.op_type == "Shape" or (on_host & set(node.input) and set(node.input) <= on_host | known):
            on_host.update(node.output)
        elif taken := [place for place, name in enumerate(node.input) if name in on_host]:
            assert (node.op_type, taken) in (("GroupQueryAttention", [6]), ("Reshape", [1]))


def test_sizes_are_the_models(exported):
    sizes = Host(exported("idefics")).manifest.model
    assert (sizes.vocab_size, sizes.image_token_id, sizes.tokens_per_image, sizes.image_seq_len) == (262, 260, 1, 5)
    assert (sizes.num_layers, sizes.num_cross_layers, sizes.vision_width, sizes.image_size) == (2, 1, 48, 28)
    base = Host(exported("idefics_base")).manifest.model
    assert (base.image_seq_len, base.num_cross_layers, base.vocab_size) == (17, 2, 261)
