"""IDEFICS' four graphs as a host meets them, beside transformers: plain ONNX Runtime calls, NumPy between them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnxruntime as ort
import pytest
import torch
from idefics2_onnx.graphs.contract import (
    MANIFEST,
    Manifest,
    graph_file,
    key_value_names,
)
from small_idefics import SMALL_IDEFICS
from transformers import IdeficsForVisionText2Text

EOS, STEPS = 2, 6
FLOOR = 1e-5
"""Largest difference of features and logits whose standard deviation is near 1."""
SWEPT = ("idefics_four", "idefics_no_perceiver", "idefics_one", "idefics_hub", "idefics_plain")


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


def _swept(name: str, *rest: str):
    return pytest.param(name, *rest, marks=[pytest.mark.sweep] if name in SWEPT else [])


@pytest.mark.parametrize(
    ("name", "flavour"), [_swept(name, flavour) for name, small in SMALL_IDEFICS.items() for flavour in small.flavours]
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
