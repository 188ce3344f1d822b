"""Prompts with their images as a caller writes them, matched up, and what the model takes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import PromptError
from ..image_tokens import TILES_OF_SPLIT_IMAGE
from ..sample import Sample
from .arrays import array_of, check_finite
from .images_per_prompt import share_images
from .messages import images_in
from .processor import Processor


@dataclass(frozen=True)
class Request:
    """One prompt or a batch of them."""

    prompts: list[Any]
    """Text or a conversation each."""
    images: list[list[Any]]
    """Images of each prompt, or arrays of features [tiles, image_seq_len, hidden]."""
    processor: Processor
    raw: bool
    split: bool
    encoded: bool
    """Whether the images are features."""
    batch: bool

    @classmethod
    def read(
        cls,
        processor: Processor,
        prompt: Any,
        images: Any = None,
        raw: bool = False,
        do_image_splitting: bool | None = None,
        image_features: Any = None,
    ) -> Request:
        """Images may lie in any accepted nesting beside the prompts, or inside conversations; features stand in their place."""
        batch = is_batch(prompt)
        prompts = list(prompt) if batch else [prompt]
        if not prompts:
            raise PromptError("The batch has no prompts. Give at least one.")
        if images is not None and image_features is not None:
            raise PromptError("Both images and image_features were given. Give one of them.")
        beside = images if image_features is None else image_features
        inside = [images_in(prompt) if isinstance(prompt, list) else [] for prompt in prompts]
        if any(inside):
            if beside is not None:
                raise PromptError("Images were given both inside the messages and beside them. Give them in one place.")
            own = inside
        elif batch:
            own = share_images([p if isinstance(p, str) else processor.prompt_text(p, 0) for p in prompts], beside)
        else:
            own = share_images([""], beside)
        encoded = image_features is not None
        split = (
            _is_split(own)
            if encoded
            else processor.image_processor.options.replace(
                **({} if do_image_splitting is None else {"do_image_splitting": do_image_splitting})
            ).do_image_splitting
        )
        return cls(prompts, own, processor, raw, split, encoded, batch)

    def ids(self, answers: list[str] | None = None) -> list[list[int]]:
        """Token ids of each prompt, with an answer after it or without."""
        return self.processor.prompt_ids(self.prompts, self.images, self.split, self.raw, answers)

    def samples(self, pixel_type: type[np.generic], answers: list[str] | None = None) -> list[Sample]:
        """What the model takes, with pixels of the type that its graph does."""
        ids = self.ids(answers)  # first, since it needs little and finds most mistakes
        flat = [image for own in self.images for image in own]
        if self.encoded:
            for features in flat:
                check_finite(np.asarray(features), "image_features")
            tiles = [list(np.array(features, np.float32)) for features in flat]  # copies: a stream may read them later
        else:
            processor = self.processor.image_processor
            options = processor.options.replace(do_image_splitting=self.split)
            tiles = processor.tiles(flat, options, processor.upright, pixel_type)
        each = iter(tiles)
        return [
            self.processor.sample(row, [tile for _ in own for tile in next(each)])
            for row, own in zip(ids, self.images, strict=True)
        ]


def is_batch(prompt: Any) -> bool:
    """A list of strings or of conversations; a conversation itself is a list of dicts."""
    if isinstance(prompt, str):
        return False
    if _is_conversation(prompt) and prompt:
        return False
    if isinstance(prompt, list | tuple) and all(isinstance(one, str) or _is_conversation(one) for one in prompt):
        return True
    raise PromptError("The prompt is neither text, a list of messages, nor a list of either. Give one of these.")


def _is_conversation(prompt: Any) -> bool:
    return isinstance(prompt, list) and all(isinstance(message, dict) for message in prompt)


def _is_split(features: list[list[Any]]) -> bool:
    """Whether features are of split images; PromptError unless all are or none is."""
    shapes = [array_of("image_features", image).shape for own in features for image in own]
    counts = {shape[0] if len(shape) == 3 else 0 for shape in shapes}
    if not counts <= {1} and not counts <= {TILES_OF_SPLIT_IMAGE}:
        raise PromptError(
            f"image_features have the shapes {[list(shape) for shape in shapes]}. Give one array [tiles, image_seq_len, hidden] "
            f"per image, all with 1 tile or all with {TILES_OF_SPLIT_IMAGE}, as encode_images returns them."
        )
    return counts == {TILES_OF_SPLIT_IMAGE}
