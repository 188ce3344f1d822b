"""What the models' processors share: tokenizer, chat template, padding, and ids → text.

Source: transformers 5.23, ProcessorMixin.apply_chat_template and the tokenizer's calls.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from numpy.typing import NDArray
from tokenizers import Tokenizer

from ...graphs.contract import ModelSizes
from ...graphs.errors import ModelFolderError
from ..checks import flag
from ..errors import PromptError
from ..folder import find_json, processor_folder
from ..image_tokens import IMAGE, SPECIAL_TOKENS
from ..images.image_processor import ImageProcessor
from ..outside.hosts import AllowUrls
from ..sample import Sample
from ..text.chat_template import ChatTemplate, load_chat_template
from ..text.prompt import Message, check_image_count, check_text, user_turn, with_tags
from ..text.tokenizer import Side, check_side, decode, encode, is_llama, load_tokenizer, pad_ids, padded_width
from .arrays import Inputs
from .call_options import image_options_among
from .messages import images_in
from .padding_options import PaddingOptions

MAX_PADDED = 1 << 26
"""Tokens of padded prompts together: two arrays of 512 MiB."""


class Processor(ABC):
    """Prompts and images → a dict of arrays, and back from ids to text.

    Attributes:
        image_processor: used for the images.
        tokenizer: a `tokenizers.Tokenizer`; its padding_side and truncation_side may be set.
        image_seq_len: tokens per tile.
        chat_template: None where the folder has none.
    """

    image_processor_class: ClassVar[type[ImageProcessor]]
    model_input_names: ClassVar[tuple[str, ...]]
    """What the model takes in place of a prompt."""

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Tokenizer,
        image_seq_len: int = 64,
        chat_template: ChatTemplate | None = None,
        pad_token_id: int = 0,
        padding_side: Side = "left",
        truncation_side: Side = "right",
        bos_token: str | None = None,
        eos_token: str | None = None,
    ) -> None:
        self.image_processor, self.tokenizer, self.image_seq_len = image_processor, tokenizer, image_seq_len
        self.chat_template, self.pad_token_id = chat_template, pad_token_id
        self.padding_side, self.truncation_side = padding_side, truncation_side
        self.bos_token, self.eos_token = bos_token, eos_token

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, subfolder: str = "", allow_urls: AllowUrls = False, **image_options: Any
    ) -> Self:
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
        try:
            padding_side = check_side(config.get("padding_side") or ("left" if is_llama(config) else "right"))
            truncation_side = check_side(config.get("truncation_side") or "right", "truncation_side")
        except PromptError as error:
            raise ModelFolderError(f"{folder}'s tokenizer_config.json cannot be used: {error}") from error
        return cls(
            cls.image_processor_class.from_pretrained(folder, allow_urls=allow_urls, **image_options),
            tokenizer,
            cls.tokens_per_tile(folder),
            load_chat_template(folder, special),
            0 if pad is None else pad,
            padding_side,
            truncation_side,
            special.get("bos_token"),
            special.get("eos_token"),
        )

    @staticmethod
    @abstractmethod
    def tokens_per_tile(folder: Path) -> int:
        """Image tokens that each tile takes in a prompt, by a folder's files."""

    @abstractmethod
    def ids(
        self,
        texts: Sequence[str],
        images: Sequence[Sequence[Any]],
        split: bool,
        add_special_tokens: bool = True,
        max_length: int | None = None,
    ) -> list[list[int]]:
        """Token ids of prompts with one image tag per image; the images are not looked at."""

    @abstractmethod
    def tagged_inputs(self, texts: list[str], images: list[list[Any]], **options: Any) -> Inputs:
        """The arrays of prompts with one image tag per image."""

    @abstractmethod
    def sample(self, ids: list[int], tiles: list[NDArray[Any]], reused: int = 0, skipped: int = 0) -> Sample:
        """A prompt for the model.

        Args:
            tiles: values or features of its images' tiles, in order, without those of the first `skipped` images.
            reused: tokens at the start whose keys and values are in the cache.
        """

    @abstractmethod
    def samples(self, inputs: Mapping[str, Any], sizes: ModelSizes) -> list[Sample]:
        """What this processor returns, padded on either side, → prompts for the model."""

    @abstractmethod
    def image_of(self, ids: Sequence[int], split: bool) -> list[int]:
        """For each token of a prompt, which image its keys and values follow from by themselves; −1 for none."""

    @abstractmethod
    def image_of_answers(self, image_of: Sequence[int]) -> int:
        """The same for the tokens that are generated after a prompt."""

    @abstractmethod
    def resume(self, ids: Sequence[int], length: int, split: bool) -> tuple[int, int]:
        """Of the first `length` tokens of a prompt, which are cached, how many serve, and how many of its first images the tokens
        behind those do without."""

    def tokenized(self, expanded: Sequence[str], add_special_tokens: bool, max_length: int | None = None) -> list[list[int]]:
        """Token ids of texts with all of their images' tokens; PromptError where some of those would be cut off."""
        encodings = encode(self.tokenizer, expanded, add_special_tokens, max_length, self._side("truncation_side"))
        image_token = self.tokenizer.token_to_id(IMAGE)
        if image_token is None and any(IMAGE in text for text in expanded):
            raise ModelFolderError(f"The folder's tokenizer has no {IMAGE}, nor has the vocabulary room for it. Export it again.")
        for text, encoding in zip(expanded, encodings, strict=True):
            needed, kept = text.count(IMAGE), 0 if image_token is None else encoding.ids.count(image_token)
            if kept != needed:
                raise PromptError(
                    f"The prompt's images need {needed} tokens, and {kept} would be left of them in {len(encoding.ids)}. "
                    "Raise max_length, or use fewer or unsplit images."
                )
        return [encoding.ids for encoding in encodings]

    def padded(self, ids: list[list[int]], options: PaddingOptions) -> Inputs:
        """input_ids and attention_mask of prompts."""
        width = padded_width([len(row) for row in ids], options.padding, options.max_length, options.pad_to_multiple_of)
        if width is not None and len(ids) * width > MAX_PADDED:
            raise PromptError(f"The {len(ids)} prompts would be padded to {width:,} tokens each. Pad to fewer.")
        side = check_side(options.padding_side or self._side("padding_side"))
        return Inputs(pad_ids(ids, self.pad_token_id, side, width))

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
        inputs = self.tagged_inputs(texts, images, **options)
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


def check_tags(texts: Sequence[str], images: Sequence[Sequence[Any]]) -> None:
    """Raise PromptError unless texts are valid and have one image tag per image."""
    for text, own in zip(texts, images, strict=True):
        check_text(text)
        check_image_count(text, len(own))


def _content(token: str | dict[str, Any]) -> str:
    """A special token in tokenizer_config.json: a string, or an object with its content."""
    content = token.get("content") if isinstance(token, dict) else token
    if not isinstance(content, str):
        raise ModelFolderError(f"tokenizer_config.json has the special token {token!r:.80}. Download it again.")
    return content
