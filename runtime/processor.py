"""The exact port of Idefics2's processor: prompts and images → the arrays the model takes, and ids → text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from .chat_template import ChatTemplate, load_chat_template
from .errors import ModelFolderError, PromptError
from .folder import read_json_object
from .image_processor import Idefics2ImageProcessor, Tile, pad_tiles
from .image_source import ImageSource, nested
from .prompt import Message, check_image_count, expand_images, user_turn, with_tags

Side = Literal["left", "right"]
_SPECIALS = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True)
class Sample:
    """One prompt, ready for the model: token ids and the tiles its image tokens stand for, in order."""

    ids: list[int]
    tiles: list[Tile] = field(default_factory=list)


class Idefics2Processor:
    """Prompts and images → a dict of arrays, like the reference's class of this name, and back from ids to text.

    Attributes:
        image_processor: used for the images; its options decide about splitting, in pixels and prompt alike.
        tokenizer: a `tokenizers.Tokenizer`.
        image_seq_len: tokens per tile.
    """

    def __init__(
        self,
        image_processor: Idefics2ImageProcessor,
        tokenizer: Tokenizer,
        image_seq_len: int = 64,
        chat_template: ChatTemplate | None = None,
        pad_token_id: int = 0,
        padding_side: Side = "left",
    ) -> None:
        self.image_processor, self.tokenizer, self.image_seq_len = image_processor, tokenizer, image_seq_len
        self.chat_template, self.pad_token_id, self.padding_side = chat_template, pad_token_id, padding_side

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Idefics2Processor:
        """From a model folder, or any folder with the reference's processor files."""
        folder = Path(folder)
        if not (folder / "tokenizer.json").is_file():
            raise ModelFolderError(f"{folder} has no tokenizer.json. Give a model folder made by `idefics2-onnx export`.")
        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises a bare Exception
            raise ModelFolderError(f"{folder / 'tokenizer.json'} is not a tokenizer ({error}). Download it again.") from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        config, processor = (
            read_json_object(folder / name) if (folder / name).is_file() else {}
            for name in ("tokenizer_config.json", "processor_config.json")
        )
        special = {name: _content(config[name]) for name in _SPECIALS if config.get(name) is not None}
        pad = tokenizer.token_to_id(special["pad_token"]) if "pad_token" in special else None
        return cls(
            Idefics2ImageProcessor.from_pretrained(folder),
            tokenizer,
            int(processor.get("image_seq_len", 64)),
            load_chat_template(folder, special),
            0 if pad is None else pad,
            config.get("padding_side") or "left",
        )

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        images: Any = None,
        *,
        padding: bool | str = False,
        padding_side: Side | None = None,
        add_special_tokens: bool = True,
        return_tensors: Literal["np"] | None = "np",
        **image_options: Any,
    ) -> dict[str, NDArray[Any]]:
        """Prompts with image tags, and their images.

        Args:
            text: one prompt or several, with one ``<image>`` per image.
            images: one image, the images of all prompts in order, or one list per prompt.
            padding: True pads shorter prompts; needed for prompts of different lengths.
            image_options: options of the image processor for this call, do_image_splitting among them.

        Returns:
            input_ids, attention_mask: int64 [batch, seq], with text.
            pixel_values: float32 [batch, num_tiles, 3, height, width], and pixel_attention_mask: int64, with images.

        Raises:
            PromptError, ImageError: tags and images do not match, or one of them cannot be used.
        """
        if text is None and images is None:
            raise PromptError("Neither text nor images were given. Give at least one of them.")
        if return_tensors not in ("np", None):
            raise PromptError(f"return_tensors is {return_tensors!r}. Leave it out: arrays are NumPy's.")
        if text is None:
            return self.image_processor(images, **image_options)
        texts = [text] if isinstance(text, str) else list(text)
        if not texts or not all(isinstance(t, str) for t in texts):
            raise PromptError("text is not a string or a list of strings. Use apply_chat_template for messages.")
        samples = self.samples(texts, share_images(texts, images), add_special_tokens, **image_options)
        if len({len(sample.ids) for sample in samples}) > 1 and not padding:
            raise PromptError("The prompts have different lengths. Set padding=True.")
        inputs = pad_ids([sample.ids for sample in samples], self.pad_token_id, padding_side or self.padding_side)
        if any(sample.tiles for sample in samples):
            inputs |= pad_tiles([sample.tiles for sample in samples])
        return inputs

    def samples(
        self, texts: Sequence[str], images: Sequence[Sequence[ImageSource]], add_special_tokens: bool = True, **image_options: Any
    ) -> list[Sample]:
        """Tokenize tagged prompts and process their images, without padding."""
        options = self.image_processor.options.replace(**image_options)
        for text, own in zip(texts, images, strict=True):
            check_image_count(text, len(own))
        expanded = [expand_images(text, self.image_seq_len, options.do_image_splitting) for text in texts]
        encodings = self.tokenizer.encode_batch(expanded, add_special_tokens=add_special_tokens)
        tiles = ([t for image in own for t in self.image_processor.tiles(image, options)] for own in images)
        return [Sample(encoding.ids, own) for encoding, own in zip(encodings, tiles, strict=True)]

    def apply_chat_template(self, messages: list[Message], *, add_generation_prompt: bool = False) -> str:
        """A conversation in the reference's format → prompt text with image tags. PromptError if the folder has no template."""
        if self.chat_template is None:
            raise PromptError("This model has no chat template, so it cannot take messages. Give a plain prompt instead.")
        return self.chat_template.render(messages, add_generation_prompt)

    def prompt_text(self, prompt: str | list[Message], num_images: int, raw: bool = False) -> str:
        """What a user wrote → the tagged text the model reads: one user turn, a whole conversation, or (raw) itself."""
        if not isinstance(prompt, str):
            return self.apply_chat_template(prompt, add_generation_prompt=True)
        if raw:
            return prompt
        if self.chat_template is None:
            return with_tags(prompt, num_images)
        return self.apply_chat_template(user_turn(prompt, num_images), add_generation_prompt=True)

    def decode(self, token_ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """Text of one sequence of ids."""
        return self.tokenizer.decode([int(i) for i in token_ids], skip_special_tokens=skip_special_tokens)

    def batch_decode(self, sequences: Iterable[Iterable[int]], skip_special_tokens: bool = False) -> list[str]:
        """Text of each sequence of ids."""
        return [self.decode(ids, skip_special_tokens) for ids in sequences]


def share_images(texts: Sequence[str], images: Any) -> list[list[ImageSource]]:
    """Images in any of the accepted nestings → one list per prompt; a flat list is shared out by the prompts' tags."""
    if images is None:
        return [[] for _ in texts]
    samples = nested(images)
    flat = not (isinstance(images, list | tuple) and images and isinstance(images[0], list | tuple))
    if flat and len(texts) > 1:
        ends = list(accumulate((text.count("<image>") for text in texts), initial=0))
        if ends[-1] != len(samples[0]):
            raise PromptError(
                f"The prompts have {ends[-1]} <image> together but {len(samples[0])} images were given. "
                "Put one <image> per image, or give one list of images per prompt."
            )
        return [samples[0][start:stop] for start, stop in pairwise(ends)]
    if len(samples) != len(texts):
        raise PromptError(f"There are {len(texts)} prompts but {len(samples)} lists of images. Give one list per prompt.")
    return samples


def pad_ids(rows: Sequence[Sequence[int]], pad_token_id: int, side: Side) -> dict[str, NDArray[Any]]:
    """Token ids of different lengths → input_ids and attention_mask, int64 [batch, longest]."""
    shape = (len(rows), max(map(len, rows)))
    ids, mask = np.full(shape, pad_token_id, np.int64), np.zeros(shape, np.int64)
    for row, own in enumerate(rows):
        place = slice(0, len(own)) if side == "right" else slice(shape[1] - len(own), None)
        ids[row, place], mask[row, place] = own, 1
    return {"input_ids": ids, "attention_mask": mask}


def _content(token: str | dict[str, Any]) -> str:
    """A special token in tokenizer_config.json: a string, or an object with its content."""
    return token if isinstance(token, str) else str(token["content"])
