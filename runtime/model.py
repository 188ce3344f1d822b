"""The model as an app sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from .engine import Engine
from .errors import ModelFolderError, PromptError
from .folder import ModelFolder
from .generation import (
    Generation,
    Timings,
    check_samples,
    feature_rows,
    generate_tokens,
    right_padded,
)
from .generation_options import GenerationOptions
from .inputs import samples_of, token_mask, with_answers
from .processor import Idefics2Processor, Sample, share_images
from .prompt import Message, images_in
from .sessions import Provider, open_sessions
from .text_stream import TextStream

if TYPE_CHECKING:
    import onnxruntime as ort

Prompt = str | list[Message]
"""One user turn as text, or a whole conversation in the reference's chat format."""


class Idefics2:
    """Idefics2 on ONNX Runtime, from a model folder.

    Attributes:
        folder: the folder's path and manifest.
        processor: prompts and images → arrays, ids → text.
    """

    def __init__(self, folder: ModelFolder, engine: Engine, allow_urls: bool = False) -> None:
        self.folder, self._engine, self._allow_urls = folder, engine, allow_urls
        self.options = GenerationOptions.from_configs(folder.json("generation_config.json"), folder.json("config.json"))

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        device: str = "auto",
        *,
        providers: Sequence[Provider] | None = None,
        session_options: ort.SessionOptions | None = None,
        revision: str | None = None,
        allow_urls: bool = False,
    ) -> Idefics2:
        """Open a model folder.

        Args:
            source: folder, hub id, or None for the small model that ships with the package.
            device: "auto", "cpu", "cuda" or "tensorrt".
            providers, session_options: passed to ONNX Runtime as they are; providers replace the device.
            allow_urls: whether images may be http(s) URLs, which are downloaded.

        Raises:
            ModelFolderError: no model folder, or a damaged one.
            ProviderError: the device does not work here.
        """
        folder = ModelFolder.open(source, revision)
        return cls(folder, Engine.open(folder, open_sessions(folder, device, providers, session_options)), allow_urls)

    @cached_property
    def processor(self) -> Idefics2Processor:
        processor = Idefics2Processor.from_pretrained(self.folder.path, allow_urls=self._allow_urls)
        sizes = self.folder.manifest.model
        if processor.image_seq_len != sizes.image_seq_len:
            raise ModelFolderError(
                f"processor_config.json gives an image {processor.image_seq_len} tokens, the model {sizes.image_seq_len}. "
                "Export or download the model again."
            )
        return processor

    @property
    def providers(self) -> list[str]:
        """The execution providers in use, by priority."""
        return self._engine.sessions.providers

    @overload
    def generate(self, prompt: Prompt, images: Any = None, **options: Any) -> Generation: ...
    @overload
    def generate(self, prompt: list[str] | list[list[Message]], images: Any = None, **options: Any) -> list[Generation]: ...
    @overload
    def generate(self, *, input_ids: NDArray[np.int64], **options: Any) -> NDArray[np.int64]: ...
    def generate(
        self,
        prompt: Any = None,
        images: Any = None,
        *,
        raw: bool = False,
        do_image_splitting: bool | None = None,
        input_ids: NDArray[np.int64] | None = None,
        attention_mask: NDArray[np.int64] | None = None,
        pixel_values: NDArray[np.float32] | None = None,
        pixel_attention_mask: NDArray[np.int64] | None = None,
        **options: Any,
    ) -> Generation | list[Generation] | NDArray[np.int64]:
        """Answer a prompt about images.

        Args:
            prompt: one user turn, a conversation, or a list of either (a batch). A turn without ``<image>`` tags puts its
                images first.
            images: paths, bytes, Pillow images or arrays; one, a list, or one list per prompt of a batch.
            raw: take the text literally, tags included, instead of as a user turn.
            do_image_splitting: override the folder's choice to split images in four.
            input_ids, attention_mask, pixel_values, pixel_attention_mask: the processor's dict instead of a prompt.
            options: max_new_tokens, eos_token_id, bad_words_ids, pad_token_id; defaults from generation_config.json.

        Returns:
            A Generation, a list of them for a batch; for the processor's dict, like the reference, int64 [batch, seq + new]
            with prompts as they came, answers behind them, and pad_token_id behind those.

        Raises:
            PromptError, ImageError: the prompt or an image cannot be used.
        """
        chosen = self.options.replace(**_known(options))
        timings = Timings()
        if input_ids is not None:
            if prompt is not None or images is not None:
                raise PromptError("Both a prompt and input_ids were given. Give one of them.")
            samples = samples_of(input_ids, attention_mask, pixel_values, pixel_attention_mask)
            answers, _ = self._collect(samples, chosen, timings)
            return with_answers(np.asarray(input_ids), answers, chosen)
        batch = _is_batch(prompt)
        samples = self._prepare(prompt if batch else [prompt], images, raw, do_image_splitting, batch)
        answers, reasons = self._collect(samples, chosen, timings)
        results = [
            Generation(self.processor.decode(ids, True), ids, "stop" if stopped else "length", len(sample.ids), timings)
            for ids, stopped, sample in zip(answers, reasons, samples, strict=True)
        ]
        return results if batch else results[0]

    def stream(
        self, prompt: Prompt, images: Any = None, *, raw: bool = False, do_image_splitting: bool | None = None, **options: Any
    ) -> TokenStream:
        """Like `generate` for one prompt, but an iterator of text pieces that join to its text."""
        if _is_batch(prompt):
            raise PromptError(f"stream answers one prompt, and {len(prompt)} were given. Use generate for a batch.")
        chosen = self.options.replace(**_known(options))
        sample = self._prepare([prompt], images, raw, do_image_splitting, False)[0]
        return TokenStream(self._engine, sample, chosen, TextStream(self.processor.tokenizer))

    def logits(self, inputs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Logits of every position of the processor's dict.

        Returns:
            float32 [batch, seq, vocab], aligned with input_ids on whichever side those are padded; zero at padding.
        """
        if "input_ids" not in inputs:
            raise PromptError("The inputs have no input_ids. Give the processor's dict for text.")
        known = ("input_ids", "attention_mask", "pixel_values", "pixel_attention_mask")
        for name in inputs:
            if name not in known:
                raise PromptError(f"The inputs have {name!r}, which the model does not take. Give {', '.join(known)}.")
        samples = samples_of(**inputs)
        check_samples(self._engine, samples, 0)
        tiles = [tile for sample in samples for tile in sample.tiles]
        features = self._engine.encode_images(tiles) if tiles else None
        ids = right_padded(samples)
        lengths = np.array([len(sample.ids) for sample in samples], np.int64)
        embeds = self._engine.embed(ids, features, feature_rows(samples, features, self._engine))
        cache = self._engine.new_cache(len(samples), ids.shape[1])
        found = self._engine.decode(embeds, lengths, cache, np.broadcast_to(np.arange(ids.shape[1]), ids.shape).copy())
        mask = token_mask(np.asarray(inputs["input_ids"]), inputs.get("attention_mask"))
        aligned = np.zeros((*mask.shape, found.shape[-1]), np.float32)
        aligned[mask] = found[np.arange(ids.shape[1]) < lengths[:, None]]
        return aligned

    def _prepare(
        self, prompts: Sequence[Any], images: Any, raw: bool, do_image_splitting: bool | None, batch: bool
    ) -> list[Sample]:
        """Prompts as a caller gives them → samples."""
        if not prompts:
            raise PromptError("The batch has no prompts. Give at least one.")
        inside = [images_in(prompt) if isinstance(prompt, list) else [] for prompt in prompts]
        if any(inside):
            if images is not None:
                raise PromptError("Images were given both inside the messages and beside them. Give them in one place.")
            own = inside
        elif batch:
            own = share_images([p if isinstance(p, str) else self.processor.prompt_text(p, 0) for p in prompts], images)
        else:
            own = share_images([""], images)
        texts = [self.processor.prompt_text(prompt, len(i), raw) for prompt, i in zip(prompts, own, strict=True)]
        options = {} if do_image_splitting is None else {"do_image_splitting": do_image_splitting}
        return self.processor.samples(texts, own, raw or not self.processor.starts_with_bos(texts[0]), **options)

    def _collect(
        self, samples: Sequence[Sample], options: GenerationOptions, timings: Timings
    ) -> tuple[list[list[int]], list[bool]]:
        """Every row's tokens, and whether an end token stopped it."""
        answers: list[list[int]] = [[] for _ in samples]
        for step in generate_tokens(self._engine, samples, options, timings):
            for answer, token in zip(answers, step, strict=True):
                if token is not None:
                    answer.append(token)
        return answers, [answer[-1] in options.eos_token_id for answer in answers]


class TokenStream:
    """An iterator of text pieces; `result` holds the whole answer once it is exhausted."""

    def __init__(self, engine: Engine, sample: Sample, options: GenerationOptions, text: TextStream) -> None:
        self._sample, self._options, self._text = sample, options, text
        self._timings, self._ids = Timings(), list[int]()
        new_tokens = options.new_tokens(len(sample.ids), engine.sizes.max_positions)
        check_samples(engine, [sample], new_tokens)  # before the first piece, where the caller still is
        self._tokens = generate_tokens(engine, [sample], options, self._timings)
        self._pieces = self._run()

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    def __next__(self) -> str:
        return next(self._pieces)

    @property
    def result(self) -> Generation:
        """The answer so far."""
        stopped = bool(self._ids) and self._ids[-1] in self._options.eos_token_id
        reason = "stop" if stopped else "length"
        return Generation(self._text.text, self._ids, reason, len(self._sample.ids), self._timings)  # type: ignore[arg-type]

    def _run(self) -> Iterator[str]:
        for (token,) in self._tokens:
            assert token is not None
            self._ids.append(token)
            if piece := self._text.push(token):
                yield piece
        if piece := self._text.close():
            yield piece


def _known(options: dict[str, Any]) -> dict[str, Any]:
    known = ("max_new_tokens", "eos_token_id", "bad_words_ids", "pad_token_id")
    for name in options:
        if name not in known:
            raise PromptError(f"There is no generation option {name!r}. The options are {', '.join(known)}.")
    return options


def _is_batch(prompt: Any) -> bool:
    """A list of strings or of conversations; a conversation itself is a list of dicts."""
    if isinstance(prompt, str):
        return False
    if isinstance(prompt, list) and prompt and all(isinstance(message, dict) for message in prompt):
        return False
    if isinstance(prompt, list | tuple) and all(isinstance(p, str | list) for p in prompt):
        return True
    raise PromptError("The prompt is neither text, a list of messages, nor a list of either. Give one of these.")
