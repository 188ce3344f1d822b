"""A conversation whose earlier turns stay in the key/value cache."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import PromptError
from .generation.answer import Generation
from .generation.generator import Generator
from .generation.loaded_model import LoadedModel
from .generation.token_stream import TokenStream
from .image_tokens import IMAGE
from .images.image_processor import flat_images
from .images.source import ImageUrl, read_image
from .inputs.messages import as_json, copy_of, images_in, turn_with_images, with_images_read
from .sample import Sample, common_length
from .sampling.generation_options import GenerationOptions
from .text.prompt import Message

MAX_SAVED = 1 << 30
"""Bytes of a saved chat, pictures included."""


class Chat:
    """Turns of a user and the model, about images of any turn.

    Each turn's answer is what `generate` would give for the whole conversation, but only what is new is read: the tokens
    after the longest beginning that this turn's conversation shares with what the cache holds. To be used from one thread
    at a time.

    Attributes:
        options: defaults of every turn.
    """

    def __init__(self, model: LoadedModel, options: GenerationOptions, messages: list[Message] | None = None) -> None:
        processor = model.processor
        if processor.chat_template is None:
            raise PromptError("This model has no chat template, so it cannot chat. Use generate with a plain prompt.")
        self._model, self._processor, self.options = model, processor, options
        self._cache = model.engine.new_cache(1, 1)
        self._cached: list[tuple[int, int | None]] = []
        """Of each token in the cache, what its keys and values follow from: its id, and its image by Python's `id`."""
        self._cached_images: list[Any] = []  # kept, so that no other object gets their ids
        self._cached_options = processor.image_processor.options
        self._messages: list[Message] = []
        self._open: weakref.ref[TokenStream] | None = None  # weak, so that a stream that is dropped ends
        self._check_options(options)
        if messages is not None and not (isinstance(messages, list) and all(isinstance(message, dict) for message in messages)):
            raise PromptError(f"messages is {messages!r:.60}. Give one conversation: a list of messages.")
        if messages:
            images = processor.image_processor
            self._messages = [with_images_read(message, images.allow_urls, images.upright) for message in messages]
            self._ids(self._messages)

    @property
    def messages(self) -> list[Message]:
        """The conversation in the reference's format, images inside; a copy, but for the images."""
        return [copy_of(message) for message in self._messages]

    @property
    def completes(self) -> bool:
        """Whether turns are one text that goes on, as for a base model: they stand behind one another as they are."""
        template = self._processor.chat_template
        return template is not None and template.only_joins

    @property
    def cache_bytes(self) -> int:
        """What the conversation's keys and values take."""
        return self._cache.nbytes

    def send(self, text: str, images: Any = None, **options: Any) -> Generation:
        """Add a user's turn with its new images, and the model's answer to it.

        An interruption (Ctrl-C) or error keeps the turn with the answer so far, or leaves the chat as it was before the
        first token.
        """
        stream = self.stream(text, images, **options)
        with stream:
            for _ in stream:
                pass
        return stream.result

    def stream(self, text: str, images: Any = None, **options: Any) -> TokenStream:
        """Like `send`, but an iterator of text pieces; closed early, the chat keeps the answer so far."""
        self._close()
        chosen = self.options.replace(**options)
        self._check_options(chosen)
        if not isinstance(text, str):
            raise PromptError(f"The turn is {text!r:.60}. Give text.")
        reader = self._processor.image_processor
        own = [read_image(image, reader.allow_urls, reader.upright) for image in ([] if images is None else flat_images(images))]
        messages = [*self._messages, *turn_with_images(text, own)]
        sample = self._unread(messages)
        self._cache.keep(0, sample.reused)
        del self._cached[sample.reused :]
        generator = Generator(self._model, [sample], chosen, streamed=True, cache=self._cache)
        stream = TokenStream(generator, lambda answer: self._end(messages, generator, answer))
        self._open = weakref.ref(stream)
        return stream

    def undo(self) -> None:
        """Take back the last turn and its answer, or one that is still being answered; PromptError without one."""
        before, closed = len(self._messages), self._close()
        if closed and len(self._messages) == before:
            return  # it had no answer yet
        last = next((i for i in reversed(range(len(self._messages))) if self._messages[i].get("role") == "user"), None)
        if last is None:
            raise PromptError("The chat has no turn to undo. Send something first.")
        del self._messages[last:]

    def reset(self) -> None:
        """Forget the conversation and free its cache."""
        self._close()
        self._messages, self._cached, self._cached_images = [], [], []
        self._cache = self._model.engine.new_cache(1, 1)

    def save(self, path: str | Path) -> None:
        """Write the messages as JSON, images inside as data: URLs, in place of a file that was there.

        Raises:
            PromptError: the file cannot be written; one that was there stays as it was.
        """
        self._close()
        text = json.dumps([as_json(message) for message in self._messages], ensure_ascii=False, indent=1)
        path = Path(path)
        if os.path.lexists(path) and not path.is_file():
            raise PromptError(f"The chat cannot be written to {path}, which is no file. Choose another file.")
        try:
            partial = path.with_name(f".{path.name}.partial-{os.getpid()}")  # ValueError of "." and "/"
            try:
                partial.write_text(text, "utf-8")
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        except (OSError, ValueError) as error:
            raise PromptError(f"The chat cannot be written to {path} ({error}). Choose another file.") from error

    def load(self, path: str | Path) -> None:
        """Go on with messages that `save` wrote, in place of this conversation.

        Raises:
            PromptError: the file is missing or no such list. An image in it may not be a path or URL: a stranger's file must
                not make this program read others.
        """
        messages = saved_messages(path)
        for image in images_in(messages):
            image = image.url if isinstance(image, ImageUrl) else image
            if not isinstance(image, str) or not image.startswith("data:"):
                raise PromptError(
                    f"{path} names the image {image!r:.60} instead of holding it. Give a file that a chat was saved to."
                )
        loaded = Chat(self._model, self.options, messages)
        self.reset()
        self._messages = loaded._messages

    def _check_options(self, options: GenerationOptions) -> None:
        options.check_one_answer()
        if options.echo:
            raise PromptError("echo is True, but a chat's turns are in its messages. Give echo=False.")

    def _ids(self, messages: list[Message]) -> list[int]:
        """Tokens of the whole conversation; PromptError if its images and their tags do not match."""
        split = self._processor.image_processor.options.do_image_splitting
        return self._processor.prompt_ids([messages], [images_in(messages)], split)[0]

    def _unread(self, messages: list[Message]) -> Sample:
        """The whole conversation, without what the cache holds of it."""
        ids, images = self._ids(messages), images_in(messages)
        processor, options = self._processor.image_processor, self._processor.image_processor.options
        if options != self._cached_options:  # the same images are others now
            first = next((i for i, (_, image) in enumerate(self._cached) if image is not None), len(self._cached))
            self._cached_options, self._cached = options, self._cached[:first]
        split = options.do_image_splitting
        # The last token is read again, for its logits.
        shared = common_length(self._cached, self._told_apart(ids, self._processor.image_of(ids, split), images)[:-1])
        reused, known = self._processor.resume(ids, shared, split)
        # Images are changed to pixels only here, and only those that are needed.
        tiles = processor.tiles(images[known:], options, processor.upright, self._model.engine.pixel_type)
        return self._processor.sample(ids, [tile for own in tiles for tile in own], reused, known)

    def _told_apart(self, ids: Sequence[int], image_of: Sequence[int], images: Sequence[Any]) -> list[tuple[int, int | None]]:
        return [(token, None if image < 0 else id(images[image])) for token, image in zip(ids, image_of, strict=True)]

    def _end(self, messages: list[Message], generator: Generator, answer: Generation) -> None:
        """Remember what the cache holds, and the turn if it has an answer."""
        ids, self._cached_images = generator.cached_tokens, images_in(messages)
        prompt = ids[: answer.prompt_tokens]
        image_of = self._processor.image_of(prompt, self._cached_options.do_image_splitting)
        if len(ids) > len(prompt):
            image_of += [self._processor.image_of_answers(image_of)] * (len(ids) - len(prompt))
        self._cached = self._told_apart(ids, image_of, self._cached_images)
        if answer.token_ids:
            # A tag that the model writes is no image: it would ask for one in every later turn.
            text = (generator.answers[0].space if self.completes else "") + answer.text.replace(IMAGE, "< image>")
            self._messages = [*messages, {"role": "assistant", "content": [{"type": "text", "text": text}]}]
        self._open = None

    def _close(self) -> bool:
        """End an answer that is still being streamed; whether there was one."""
        stream = self._open() if self._open is not None else None
        self._open = None
        if stream is not None:
            stream.close()
        return stream is not None


def saved_messages(path: str | Path) -> list[Message]:
    """The messages in a file that a chat was saved to; PromptError if it is none."""
    try:
        if (size := Path(path).stat().st_size) > MAX_SAVED:
            raise ValueError(f"{size:,} bytes, more than {MAX_SAVED:,}")
        messages = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise PromptError(f"{path} cannot be read as a chat ({error}). Give a file that a chat was saved to.") from error
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise PromptError(f"{path} is not a list of messages. Give a file that a chat was saved to.")
    return messages
