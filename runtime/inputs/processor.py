"""The exact port of Idefics2's processor: prompts and images → the arrays the model takes, and ids → text.

Source: transformers 5.23, Idefics2Processor and ProcessorMixin.apply_chat_template.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from ...graphs.errors import ModelFolderError
from ..checks import flag, is_one_of, is_plain, is_whole, whole
from ..errors import PromptError
from ..folder import find_json, processor_folder
from ..image_tokens import IMAGE, SPECIAL_TOKENS
from ..images.image_processor import Idefics2ImageProcessor, nested
from ..images.source import ImageSource
from ..outside.hosts import AllowUrls
from ..text.chat_template import ChatTemplate, load_chat_template
from ..text.prompt import Message, check_image_count, check_text, expand_images, user_turn, with_tags
from ..text.tokenizer import (
    Padding,
    Side,
    Truncation,
    check_side,
    decode,
    encode,
    is_llama,
    load_tokenizer,
    pad_ids,
    padded_width,
    truncation_length,
)
from .arrays import Inputs
from .call_options import image_options_among
from .messages import images_in

MAX_PADDED = 1 << 26
"""Tokens of padded prompts together: two arrays of 512 MiB."""


class Idefics2Processor:
    """Prompts and images → a dict of arrays, like the reference's class of this name, and back from ids to text.

    Attributes:
        image_processor: used for the images; its options decide about splitting, in pixels and prompt alike.
        tokenizer: a `tokenizers.Tokenizer`; its padding_side and truncation_side may be set.
        image_seq_len: tokens per tile.
        chat_template: None where the folder has none.
    """

    def __init__(
        self,
        image_processor: Idefics2ImageProcessor,
        tokenizer: Tokenizer,
        image_seq_len: int = 64,
        chat_template: ChatTemplate | None = None,
        pad_token_id: int = 0,
        padding_side: Side = "left",
        truncation_side: Side = "right",
        bos_token: str | None = None,
    ) -> None:
        self.image_processor, self.tokenizer, self.image_seq_len = image_processor, tokenizer, image_seq_len
        self.chat_template, self.pad_token_id = chat_template, pad_token_id
        self.padding_side, self.truncation_side, self.bos_token = padding_side, truncation_side, bos_token

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, subfolder: str = "", allow_urls: AllowUrls = False, **image_options: Any
    ) -> Idefics2Processor:
        """From a model folder, or any folder or hub repository with the reference's processor files and a tokenizer.json.

        Args:
            subfolder: a folder inside of the folder or repository.
            allow_urls: whether images may be http(s) URLs, which are downloaded: True, or the names of hosts (`Hosts`).
            image_options: options of the image processor in place of the folder's.
        """
        folder = processor_folder(folder, subfolder)
        config = find_json(folder, "tokenizer_config.json")
        special = {name: _content(config[name]) for name in SPECIAL_TOKENS if config.get(name) is not None}
        tokenizer = load_tokenizer(folder)
        pad = tokenizer.token_to_id(special["pad_token"]) if "pad_token" in special else None
        image_seq_len = find_json(folder, "processor_config.json").get("image_seq_len", 64)
        if not is_whole(image_seq_len) or image_seq_len < 1:
            raise ModelFolderError(
                f"{folder}'s processor_config.json has image_seq_len {image_seq_len!r:.60}. Download it again."
            )
        try:
            padding_side = check_side(config.get("padding_side") or ("left" if is_llama(config) else "right"))
            truncation_side = check_side(config.get("truncation_side") or "right", "truncation_side")
        except PromptError as error:
            raise ModelFolderError(f"{folder}'s tokenizer_config.json cannot be used: {error}") from error
        return cls(
            Idefics2ImageProcessor.from_pretrained(folder, allow_urls=allow_urls, **image_options),
            tokenizer,
            image_seq_len,
            load_chat_template(folder, special),
            0 if pad is None else pad,
            padding_side,
            truncation_side,
            special.get("bos_token"),
        )

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        *,
        padding: Padding = False,
        padding_side: Side | None = None,
        pad_to_multiple_of: int | None = None,
        truncation: Truncation = None,
        max_length: int | None = None,
        add_special_tokens: bool = True,
        return_tensors: Literal["np"] | None = "np",
        **image_options: Any,
    ) -> Inputs:
        """Prompts with image tags, and their images.

        Args:
            text: one prompt or several, with one ``<image>`` per image.
            images: one image, the images of all prompts in order, or one list per prompt.
            padding: True (or "longest") pads shorter prompts, "max_length" all of them to `max_length`.
            truncation: cut prompts to `max_length` tokens; a prompt whose image tokens would be cut is refused. None cuts
                where `max_length` is given and padding is not.
            image_options: options of the image processor for this call, do_image_splitting among them; the reference's other
                options may be given with values that change nothing.

        Returns:
            input_ids, attention_mask: int64 [batch, seq], with text.
            pixel_values: float32 [batch, num_tiles, 3, height, width], and pixel_attention_mask: int64, with images.

        Raises:
            PromptError, ImageError: tags and images do not match, or one of them cannot be used.
        """
        if text is None and images is None:
            raise PromptError("Neither text nor images were given. Give at least one of them.")
        if not is_one_of(return_tensors, ("np", None)):
            raise PromptError(f"return_tensors is {return_tensors!r:.60}. Leave it out: arrays are NumPy's.")
        given = {"padding": padding, "padding_side": padding_side, "truncation": truncation, "max_length": max_length}
        for name, value in given.items():
            if not is_plain(value):
                raise PromptError(f"{name} is {value!r:.60}. Give one of the reference's values, or leave it out.")
        flag("add_special_tokens", add_special_tokens)
        multiple = None if pad_to_multiple_of is None else whole(1)("pad_to_multiple_of", pad_to_multiple_of)
        image_options = image_options_among(image_options)
        if text is None:
            return Inputs(self.image_processor(images, return_tensors=return_tensors, upright=True, **image_options))
        texts = [text] if isinstance(text, str) else text
        if not isinstance(texts, list | tuple) or not texts or not all(isinstance(t, str) for t in texts):
            raise PromptError("text is not a string or a list of strings. Use apply_chat_template for messages.")
        own = share_images(texts, images)
        limit = truncation_length(truncation, max_length, padding)
        # The tiles are made in one go with their padding, so only the ids are asked for here.
        split = self.image_processor.options.replace(**image_options).do_image_splitting
        ids = self.ids(texts, own, split, add_special_tokens, limit)
        width = padded_width([len(row) for row in ids], padding, max_length, multiple)
        if width is not None and len(ids) * width > MAX_PADDED:
            raise PromptError(f"The {len(ids)} prompts would be padded to {width:,} tokens each. Pad to fewer.")
        side = check_side(padding_side or self._side("padding_side"))
        inputs = Inputs(pad_ids(ids, self.pad_token_id, side, width))
        if any(own):
            inputs.update(self.image_processor(own, return_tensors=return_tensors, upright=True, **image_options))
        return inputs

    def ids(
        self,
        texts: Sequence[str],
        images: Sequence[Sequence[Any]],
        split: bool,
        add_special_tokens: bool = True,
        max_length: int | None = None,
    ) -> list[list[int]]:
        """Token ids of tagged prompts with so many images; the images are not looked at."""
        for text, own in zip(texts, images, strict=True):
            check_text(text)
            check_image_count(text, len(own))
        expanded = [expand_images(text, self.image_seq_len, split) for text in texts]
        encodings = encode(self.tokenizer, expanded, add_special_tokens, max_length, self._side("truncation_side"))
        image_token = self.tokenizer.token_to_id(IMAGE)
        if image_token is None and any(images):
            raise ModelFolderError(f"The folder's tokenizer has no {IMAGE}, nor has the vocabulary room for it. Export it again.")
        for text, encoding in zip(expanded, encodings, strict=True):
            needed, kept = text.count(IMAGE), 0 if image_token is None else encoding.ids.count(image_token)
            if kept != needed:
                raise PromptError(
                    f"The prompt's images need {needed} tokens, and {kept} would be left of them in {len(encoding.ids)}. "
                    "Raise max_length, or use fewer or unsplit images."
                )
        return [encoding.ids for encoding in encodings]

    def apply_chat_template(
        self,
        messages: list[Message] | list[list[Message]],
        *,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        **options: Any,
    ) -> Any:
        """A conversation in the reference's format, or a list of them → prompt text with image tags.

        With `tokenize` the prompts go on through the processor with the images inside the messages, and `options`: its dict
        with `return_dict`, else input_ids. PromptError if the folder has no template.
        """
        if self.chat_template is None:
            raise PromptError("This model has no chat template, so it cannot take messages. Give a plain prompt instead.")
        if not isinstance(messages, list) or not messages:
            raise PromptError(f"messages is {messages!r:.60}. Give a list of messages, or a list of such lists.")
        batch = isinstance(messages[0], list)
        conversations: Any = messages if batch else [messages]
        if not all(isinstance(one, list) and not any(isinstance(message, list) for message in one) for one in conversations):
            raise PromptError(f"messages is {messages!r:.60}. Give a list of messages, or a list of such lists.")
        texts = [self.chat_template.render(conversation, add_generation_prompt) for conversation in conversations]
        if not tokenize:
            if options:
                image_options_among(options)
                raise PromptError(f"{next(iter(options))!r:.60} is no option here. The processor's own need tokenize=True.")
            return texts if batch else texts[0]
        images = [images_in(conversation) for conversation in conversations]
        options.setdefault("add_special_tokens", not self.starts_with_bos(texts[0]))
        inputs = self(images if any(images) else None, texts, **options)
        return inputs if return_dict else inputs["input_ids"]

    def _side(self, name: Literal["padding_side", "truncation_side"]) -> Side:
        """One of the tokenizer's, where an app has set it there as with the reference's, else this processor's."""
        return check_side(getattr(self.tokenizer, name, None) or getattr(self, name), name)

    def __getstate__(self) -> dict[str, Any]:
        """For workers that are spawned; a copied tokenizer has lost what was set on it."""
        return self.__dict__ | {name: self._side(name) for name in ("padding_side", "truncation_side")}

    def starts_with_bos(self, text: str) -> bool:
        """Whether a template has put the token in front that the tokenizer would add once more."""
        return bool(self.bos_token) and text.startswith(str(self.bos_token))

    def prompt_text(self, prompt: str | list[Message], num_images: int, raw: bool = False, answer: str | None = None) -> str:
        """What a user wrote → the tagged text the model reads: one user turn, a whole conversation, or (raw) itself.

        Up to where the model answers, or with an answer as far as a template goes on after it.
        """
        if self.chat_template is None or raw:
            if not isinstance(prompt, str):
                return str(self.apply_chat_template(prompt))  # which says why not
            return (prompt if raw else with_tags(prompt, num_images)) + (answer or "")
        messages = user_turn(prompt, num_images) if isinstance(prompt, str) else prompt
        if answer is not None:
            messages = [*messages, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
        return str(self.apply_chat_template(messages, add_generation_prompt=answer is None))

    def prompt_ids(
        self,
        prompts: Sequence[str | list[Message]],
        images: Sequence[Sequence[Any]],
        split: bool,
        raw: bool = False,
        answers: Sequence[str] | None = None,
    ) -> list[list[int]]:
        """Token ids of what users wrote, about so many images each, as `prompt_text` takes it; with answers, or up to where the
        model answers.
        """
        texts = [
            self.prompt_text(prompt, len(own), raw, None if answers is None else answers[i])
            for i, (prompt, own) in enumerate(zip(prompts, images, strict=True))
        ]
        return self.ids(texts, images, split, raw or not self.starts_with_bos(texts[0]))

    def decode(self, token_ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """Text of one sequence of ids."""
        try:
            ids = [int(i) for i in token_ids]
        except (TypeError, ValueError, OverflowError) as error:
            raise PromptError(f"The ids are {token_ids!r:.60}. Give a sequence of token ids.") from error
        flag("skip_special_tokens", skip_special_tokens)
        if ids and not 0 <= min(ids) <= max(ids) < 1 << 32:
            raise PromptError(f"The ids go from {min(ids)} to {max(ids)}. Give token ids, from 0; labels' -100 is none.")
        return decode(self.tokenizer, ids, skip_special_tokens)

    def batch_decode(self, sequences: Iterable[Iterable[int]], skip_special_tokens: bool = False) -> list[str]:
        """Text of each sequence of ids."""
        if not isinstance(sequences, Iterable):
            raise PromptError(f"The sequences are {sequences!r:.60}. Give one sequence of token ids per text.")
        return [self.decode(ids, skip_special_tokens) for ids in sequences]


def share_images(texts: Sequence[str], images: Any) -> list[list[ImageSource]]:
    """Images in any of the accepted nestings → one list per prompt; a flat list is shared out by the prompts' tags."""
    if images is None:
        return [[] for _ in texts]
    lists = nested(images)
    flat = not (isinstance(images, list | tuple) and images and isinstance(images[0], list | tuple))
    if flat and len(texts) > 1:
        ends = list(accumulate((text.count(IMAGE) for text in texts), initial=0))
        if ends[-1] != len(lists[0]):
            raise PromptError(
                f"The prompts have {ends[-1]} {IMAGE} together but {len(lists[0])} images were given. "
                f"Put one {IMAGE} per image, or give one list of images per prompt."
            )
        return [lists[0][start:stop] for start, stop in pairwise(ends)]
    if len(lists) != len(texts):
        raise PromptError(f"There are {len(texts)} prompts but {len(lists)} lists of images. Give one list per prompt.")
    return lists


def _content(token: str | dict[str, Any]) -> str:
    """A special token in tokenizer_config.json: a string, or an object with its content."""
    content = token.get("content") if isinstance(token, dict) else token
    if not isinstance(content, str):
        raise ModelFolderError(f"tokenizer_config.json has the special token {token!r:.80}. Download it again.")
    return content
