"""transformers' IDEFICS, as tests compare with it, and prompts that its processor and masks get wrong."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from parity import photos
from PIL import Image
from prompts import PROMPTS as TAGGED
from transformers import AutoTokenizer, IdeficsForVisionText2Text, IdeficsProcessor
from transformers.models.idefics.image_processing_pil_idefics import IdeficsImageProcessorPil

Prompt = list[Any]


@dataclass(frozen=True)
class IdeficsReference:
    """transformers' model and processor of a checkpoint."""

    model: IdeficsForVisionText2Text
    processor: IdeficsProcessor

    @classmethod
    @cache
    def load(cls, checkpoint: Path) -> IdeficsReference:
        model = IdeficsForVisionText2Text.from_pretrained(checkpoint, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        return cls(model, IdeficsProcessor(IdeficsImageProcessorPil.from_pretrained(checkpoint), tokenizer))

    @torch.no_grad()
    def logits(self, inputs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        return self.model(**_tensors(inputs)).logits.numpy()

    @torch.no_grad()
    def generate(self, inputs: dict[str, NDArray[Any]], **options: Any) -> NDArray[np.int64]:
        return self.model.generate(**_tensors(inputs), **options).numpy()


def _tensors(inputs: dict[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.asarray(array)) for name, array in inputs.items()}


def items_of(text: str, images: list[Image.Image]) -> Prompt:
    """A text with image tags as one with images among its parts."""
    own = iter(images)
    parts = text.split("<image>")
    return [
        item for i, part in enumerate(parts) for item in ([part] if part else []) + ([next(own)] if i + 1 < len(parts) else [])
    ]


def table(images: list[Image.Image]) -> list[Prompt]:
    """Every prompt of the common table as texts and images, and some that only lists can say."""
    several = images * 3
    a, b, c = images
    texts = [text for text in TAGGED if "://" not in text]  # which would be fetched
    return [items_of(text, several) for text in texts] + [
        [a], ["one", "two"], ["one", "", "two"], [a, "", b], [a, " ", b], [a, b, c], ["User:", a, "What?\nAssistant: A cat.\n", "User:", b, "And?"],
        ["</s>", a, "x"], [a, "x</s>y", "z"], [a, "x</s>", b, "y"], ["x</s>y", a, "z</s>"], [], [""], ["see //this", "ftp", a],
    ]  # fmt: skip


def ragged() -> list[Prompt]:
    """Prompts of many lengths with 0 to 3 images: between words, side by side, none at all, and behind the end of a text."""
    a, b, c = photos()
    return [
        ["User:", a, "what is it", b, c, "and this?"],
        ["no image"],
        [a, "one</s>two", b, "three"],
        ["first some text and then the picture ", c],
        [a, "ends</s>"],
        ["x", b, "then</s>gone"],
    ]
