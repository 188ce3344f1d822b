"""The exact port of IDEFICS' processor: prompts of texts and images → the arrays the model takes, and ids → text.

Source: transformers 5.23, IdeficsProcessor. docs/processor.md lists where this differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from ...graphs.contract import ModelSizes
from ..checks import flag, is_one_of
from ..errors import PromptError
from ..image_tokens import END_OF_UTTERANCE, FAKE_IMAGE, IMAGE
from ..images.idefics_image_processor import IdeficsImageProcessor
from ..outside.download import is_url
from ..sample import Sample
from ..text.prompt import check_text
from ..text.tokenizer import Padding, Side, Truncation
from .arrays import Inputs
from .call_options import image_options_among
from .idefics_arrays import INPUTS, samples_of
from .padding_options import PaddingOptions
from .processor import Processor, check_tags
from .seen_images import one_hot, seen_images

_Item = Any
"""A text, or an image: a Pillow image, an array, a Path, an open file, or the address of one as text."""


class IdeficsProcessor(Processor):
    """Prompts of texts and images → a dict of arrays, like the reference's class of this name, and back from ids to text.

    Attributes:
        image_processor: used for the images.
        tokenizer: a `tokenizers.Tokenizer`; its padding_side and truncation_side may be set.
        image_seq_len: tokens per image, 1.
        chat_template: None where the folder has none.
    """

    image_processor_class = IdeficsImageProcessor
    model_input_names = INPUTS

    def __call__(
        self,
        images: Any = None,
        text: Any = None,
        *,
        add_eos_token: bool = False,
        add_end_of_utterance_token: bool | None = None,
        padding: Padding = "longest",
        padding_side: Side | None = None,
        pad_to_multiple_of: int | None = None,
        truncation: Truncation = None,
        max_length: int | None = None,
        add_special_tokens: bool = False,
        return_tensors: Literal["np"] | None = "np",
        **image_options: Any,
    ) -> Inputs:
        """Prompts in which texts and images take turns.

        Args:
            text: a text; or one prompt, a list of texts and images; or a list of such lists. A text that is nothing but a URL is
                an image. Spaces at the ends of a text are dropped, newlines stay. Also the first argument, if it is alone.
            images: beside texts, one per image: each text then follows its image. In lists, one per text, images follow it.
            add_eos_token: end each prompt with the tokenizer's end token.
            add_end_of_utterance_token: put ``<end_of_utterance>`` between two texts; None does not.
            padding: True (or "longest") pads shorter prompts, "max_length" all of them to `max_length`.
            truncation: cut prompts to `max_length` tokens; a prompt whose image tokens would be cut is refused. None cuts
                where `max_length` is given and padding is not.
            add_special_tokens: the tokenizer's own, too, though each prompt has its ``<s>``.
            image_options: options of the image processor for this call; the reference's other options may be given with values
                that change nothing.

        Returns:
            input_ids, attention_mask: int64 [batch, seq].
            pixel_values: float32 [batch, num_images, 3, height, width], filled up with zero images, one at least.
            image_attention_mask: int64 [batch, seq, num_images], 1 where a token sees an image; bool where there is none.

        Raises:
            PromptError, ImageError: a text or image cannot be used.
        """
        if not is_one_of(return_tensors, ("np", None)):
            raise PromptError(f"return_tensors is {return_tensors!r:.60}. Leave it out: arrays are NumPy's.")
        options = PaddingOptions(padding, padding_side, pad_to_multiple_of, truncation, max_length)
        flag("add_special_tokens", add_special_tokens)
        flag("add_eos_token", add_eos_token)
        between = add_end_of_utterance_token is not None and flag("add_end_of_utterance_token", add_end_of_utterance_token)
        if between and self.tokenizer.token_to_id(END_OF_UTTERANCE) is None:
            raise PromptError(f"The tokenizer has no {END_OF_UTTERANCE}, which only instructed models know. Leave it out.")
        prompts = _prompts(images, text)
        image_options = image_options_among(image_options)
        parts = [[item if _is_text(item) else None for item in prompt] for prompt in prompts]
        expanded = [self._expanded(own, between) + (self.eos_token or "") * add_eos_token for own in parts]
        own = [[_image(item) for item in prompt if not _is_text(item)] for prompt in prompts]
        return self._arrays(expanded, own, options, add_special_tokens, image_options)

    def _arrays(
        self,
        expanded: list[str],
        images: list[list[Any]],
        options: PaddingOptions,
        add_special_tokens: bool,
        image_options: dict[str, Any],
    ) -> Inputs:
        """The arrays of prompts that have their images' tokens."""
        chosen = self.image_processor.options.replace(**image_options)
        inputs = self.padded(self.tokenized(expanded, add_special_tokens, options.limit), options)
        flat = [image for own in images for image in own]
        num_images = max(1, *map(len, images))
        shape: tuple[int, ...] = (3, chosen.size["height"], chosen.size["width"])
        values = self.image_processor(flat, **image_options) if flat else np.zeros((0, *shape), np.float32)
        pixels = np.zeros((len(images), num_images, *values.shape[1:]), np.float32)
        rest = iter(values)
        for row, own in enumerate(images):
            for column in range(len(own)):
                pixels[row, column] = next(rest)
        mask = one_hot(seen_images(inputs["input_ids"], self._image_token, self._end_token), num_images)
        return Inputs(inputs, pixel_values=pixels, image_attention_mask=mask if flat else mask != 0)

    @staticmethod
    def tokens_per_tile(folder: Path) -> int:  # noqa: ARG004
        return 1

    def ids(
        self,
        texts: Sequence[str],
        images: Sequence[Sequence[Any]],
        split: bool,
        add_special_tokens: bool = True,
        max_length: int | None = None,
    ) -> list[list[int]]:
        check_tags(texts, images)
        self.image_processor.options.replace(do_image_splitting=split)
        return self.tokenized([self._tagged(text, add_special_tokens) for text in texts], False, max_length)

    def tagged_inputs(self, texts: list[str], images: list[list[Any]], **options: Any) -> Inputs:
        check_tags(texts, images)
        bos = options.pop("add_special_tokens", True)
        names = ("padding", "padding_side", "pad_to_multiple_of", "truncation", "max_length")
        padding = PaddingOptions(**{"padding": "longest"} | {name: options.pop(name) for name in names if name in options})
        if not is_one_of(options.pop("return_tensors", None), ("np", None)):
            raise PromptError("return_tensors is not 'np'. Leave it out: arrays are NumPy's.")
        return self._arrays([self._tagged(text, bos) for text in texts], images, padding, False, image_options_among(options))

    def sample(self, ids: list[int], tiles: list[NDArray[Any]], reused: int = 0, skipped: int = 0) -> Sample:
        seen: NDArray[np.int64] = one_hot(self._seen(ids)[None], skipped + len(tiles))[0]
        return Sample(ids, tiles, reused=reused, seen=seen[:, skipped:])

    def samples(self, inputs: Mapping[str, Any], sizes: ModelSizes) -> list[Sample]:
        return samples_of(inputs, sizes)

    def image_of(self, ids: Sequence[int], split: bool) -> list[int]:  # noqa: ARG002
        """Each token follows from the image that it sees."""
        found: list[int] = self._seen(ids).tolist()
        return found

    def image_of_answers(self, image_of: Sequence[int]) -> int:
        """New tokens see what the prompt's last one does, whatever they are."""
        return image_of[-1]

    def resume(self, ids: Sequence[int], length: int, split: bool) -> tuple[int, int]:  # noqa: ARG002
        """Any token may be the last; the image that it sees is seen by later ones, too."""
        seen = self._seen(ids)
        needed = seen[length:][seen[length:] >= 0]
        return length, int(needed.min()) if needed.size else int(seen.max(initial=-1)) + 1

    def _seen(self, ids: Sequence[int]) -> NDArray[np.int64]:
        seen: NDArray[np.int64] = seen_images(np.array([ids], np.int64), self._image_token, self._end_token)[0]
        return seen

    @property
    def _image_token(self) -> int:
        found = self.tokenizer.token_to_id(IMAGE)
        return -1 if found is None else found

    @property
    def _end_token(self) -> int:
        found = None if self.eos_token is None else self.tokenizer.token_to_id(self.eos_token)
        return -1 if found is None else found

    def _tagged(self, text: str, begins: bool) -> str:
        """A text with image tags, as the model reads it: the same as its parts and images one after another."""
        parts: list[str | None] = []
        for number, part in enumerate(text.split(IMAGE)):
            parts += [None] * (number > 0)
            parts += [part] * bool(part.strip(" "))
        return self._expanded(parts, False, begins)

    def _expanded(self, parts: Sequence[str | None], between: bool, begins: bool = True) -> str:
        """A prompt's texts with the tokens of its images, each of which is None here."""
        found = (self.bos_token or "") if begins else ""
        last_is_image = last_is_text = False
        for part in parts:
            if part is None:
                found += f"{IMAGE}{FAKE_IMAGE}" if last_is_image else f"{FAKE_IMAGE}{IMAGE}{FAKE_IMAGE}"
            else:
                _check_item(part)
                found += END_OF_UTTERANCE * (between and last_is_text) + part.strip(" ")
            last_is_image, last_is_text = part is None, part is not None
        return found


def _prompts(images: Any, text: Any) -> list[list[_Item]]:
    """What a caller gave → one list of texts and images per prompt."""
    if images is None and text is None:
        raise PromptError("Neither text nor images were given. Give a prompt: a list of texts and images.")
    if images is None or text is None:
        prompts = text if images is None else images
        if isinstance(prompts, str) or not isinstance(prompts, list | tuple):
            prompts = [prompts]
        if not any(isinstance(item, list | tuple) for item in prompts):
            return [list(prompts)]
        if not all(isinstance(item, list | tuple) for item in prompts):
            raise PromptError("The prompts mix lists with texts or images. Give one list of texts and images per prompt.")
        return [list(prompt) for prompt in prompts]
    texts = [text] if isinstance(text, str) else text
    beside = images if isinstance(images, list | tuple) else [images]
    if not isinstance(texts, list | tuple) or not all(isinstance(one, str) for one in texts):
        raise PromptError("text beside images is not a string or a list of strings. Put the images into the prompts instead.")
    if len(texts) != len(beside):
        raise PromptError(
            f"There are {len(texts)} texts beside {len(beside)} images or lists of images. Give one per text, or put the images "
            "into the prompts."
        )
    nested = [isinstance(own, list | tuple) for own in beside]
    if any(nested) and not all(nested):
        raise PromptError("images mixes images and lists of images. Give one image per text, or one list per text.")
    if all(nested):
        return [[one, *map(_beside, own)] for one, own in zip(texts, beside, strict=True)]
    return [[_beside(own), one] for one, own in zip(texts, beside, strict=True)]


def _beside(image: Any) -> Any:
    """An image beside texts, where a string that is no URL can only be a path."""
    return Path(image) if isinstance(image, str) and _is_text(image) else image


def _is_text(item: _Item) -> bool:
    """Whether an item is a text, and not nothing but an image's address."""
    if not isinstance(item, str):
        return False
    item = item.strip(" ")
    if " " in item:
        return True
    if item[:5].lower() == "data:":
        return ";base64," not in item
    try:
        parts = urlsplit(item)
    except ValueError:
        return True
    return not (parts.scheme and parts.netloc)


def _image(item: _Item) -> Any:
    """An image among texts, its address without spaces around it."""
    if isinstance(item, str):
        item = item.strip(" ")
        if item[:5].lower() != "data:" and not is_url(item):
            raise PromptError(f"The prompt's item {item!r:.80} is no http(s) or data: URL. Give one, or the image.")
    return item


def _check_item(text: str) -> None:
    check_text(text)
    if IMAGE in text:
        raise PromptError(f"The text {text!r:.60} has {IMAGE} in it. Put the image there, as an item of the prompt's list.")
