"""A model as an app sees it, whichever of the two it is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator as Steps
from collections.abc import Iterable, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, overload

import numpy as np
from numpy.typing import NDArray

from ..graphs.contract import Architecture
from ..graphs.errors import ModelFolderError
from .chat import Chat
from .checks import cache_bytes, is_one_of
from .devices.device import Provider
from .devices.gpu_options import GpuOptions
from .devices.sessions import open_sessions
from .engine.engine import Engine
from .engine.opening import open_engine
from .errors import PromptError
from .folder import ModelFolder
from .generation.answer import Generation, with_answers
from .generation.generator import Generator
from .generation.host_files import HostFiles
from .generation.mapping import Item, Outcome, outcomes, pair
from .generation.scheduler import DEFAULT_ROWS
from .generation.scoring import Score, all_logits, score
from .generation.token_stream import TokenStream
from .images.image_processor import flat_images
from .inputs.arrays import token_mask, tokens_of
from .inputs.labels import answer_labels, check_labels, default_labels
from .inputs.request import Request, is_batch
from .memory.feature_cache import DEFAULT_IMAGE_CACHE
from .memory.prefix_cache import PrefixCache
from .outside.hosts import AllowUrls
from .sample import Sample
from .sampling.generation_options import GenerationOptions
from .sampling.grammar import Grammars
from .text.prompt import Message

if TYPE_CHECKING:
    import onnxruntime as ort

Prompt = str | list[Message]
"""One user turn as text, or a whole conversation in the reference's chat format."""


class VisionLanguageModel:
    """What `Idefics2` and `Idefics` have in common: all but the processor and the graphs.

    One model may be used from several threads at once: each call has its own cache, the graphs run side by side on ONNX
    Runtime's threads, and the caches of images and prefixes are shared. A `Chat` belongs to one thread at a time. A process may
    fork while no thread generates, and children that opened no model before may open their own.

    It is a context manager, too, which frees the graphs at its end: ``with load(...) as model``.

    Attributes:
        folder: the folder's path and manifest.
        options: how to generate, from generation_config.json.
        processor: prompts and images → arrays, ids → text.
        grammars: what answers can be made to follow, compiled for this tokenizer.
        prefix_cache: keys and values of earlier prompts, or None.
    """

    architecture: ClassVar[Architecture]
    _engine: Engine | None

    def __init__(self, folder: ModelFolder, files: HostFiles, engine: Engine, prefix_cache: int = 0) -> None:
        self.folder, self._engine = folder, engine
        self.options, self.processor = files.options, files.processor
        self.grammars = Grammars(files.processor.tokenizer, engine.sizes.vocab_size, files.options.eos_token_id)
        self.prefix_cache = PrefixCache(prefix_cache) if prefix_cache else None

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        device: str = "auto",
        *,
        providers: Sequence[Provider] | None = None,
        session_options: ort.SessionOptions | None = None,
        gpu_options: GpuOptions | None = None,
        revision: str | None = None,
        subfolder: str = "",
        allow_urls: AllowUrls = False,
        image_cache: int = DEFAULT_IMAGE_CACHE,
        prefix_cache: int = 0,
        spinning: bool = True,
    ) -> Self:
        """Open a model folder.

        Args:
            source: folder, hub id, or None for the small model that ships with the package.
            revision, subfolder: branch, tag or commit of a hub id, and the folder inside of the repository; "owner/name:int8" is
                the hub id with a subfolder.
            device: "auto", "cpu", "cuda", "tensorrt" (for images, the rest as on "cuda"; "cuda:1" and "tensorrt:1" are the second
                GPU), or "openvino" (for images, the rest as on "cpu"). Single graphs may go elsewhere: "cuda,vision=tensorrt".
            providers, session_options: ONNX Runtime's own. Providers replace the device; options get the configuration entries
                that keep sums exact and show what runs where, unless they have them.
            gpu_options: for CUDA and TensorRT.
            allow_urls: whether images may be http(s) URLs, which are downloaded: True, or the names of hosts (`Hosts`). An app
                that passes on strangers' addresses names the hosts.
            image_cache: bytes of image features to keep, for images that come again; 0 for none.
            prefix_cache: bytes of keys and values to keep, for prompts that begin alike; 0 for none.
            spinning: whether threads on the CPU wait busily for their next piece of work. That is a few percent faster for one
                answer on idle cores, and takes twice the time on cores that others need: give False beside a server's or a
                scheduler's other work. Graphs of less than 16 MB then run on one core each.

        Raises:
            ModelFolderError: no model folder, or a damaged one.
            ProviderError: the device does not work here.
        """
        folder = ModelFolder.open(source, revision, subfolder)
        return cls.open(
            folder,
            device,
            providers=providers,
            session_options=session_options,
            gpu_options=gpu_options,
            allow_urls=allow_urls,
            image_cache=image_cache,
            prefix_cache=prefix_cache,
            spinning=spinning,
        )

    @classmethod
    def open(
        cls,
        folder: ModelFolder,
        device: str = "auto",
        *,
        providers: Sequence[Provider] | None = None,
        session_options: ort.SessionOptions | None = None,
        gpu_options: GpuOptions | None = None,
        allow_urls: AllowUrls = False,
        image_cache: int = DEFAULT_IMAGE_CACHE,
        prefix_cache: int = 0,
        spinning: bool = True,
    ) -> Self:
        """Open a folder whose manifest has been read, as `from_pretrained` does."""
        for name, size in (("image_cache", image_cache), ("prefix_cache", prefix_cache)):
            cache_bytes(name, size)
        if folder.manifest.architecture != cls.architecture:
            raise ModelFolderError(
                f"{folder.path} holds an {folder.manifest.architecture} model, which {cls.__name__} does not open. Use load."
            )
        files = HostFiles.read(folder.path, folder.manifest.model, allow_urls)  # first, as it takes less time than the graphs
        sessions = open_sessions(folder, device, providers, session_options, gpu_options, spinning)
        return cls(folder, files, open_engine(folder, sessions, image_cache), prefix_cache)

    @property
    def engine(self) -> Engine:
        """The graphs as verbs; PromptError after `close`."""
        if self._engine is None:
            raise PromptError("This model is closed. Open the folder again with from_pretrained.")
        return self._engine

    def close(self) -> None:
        """Free the graphs, their weights and the caches. Chats and streams that are still in use keep them until they end."""
        self._engine = self.prefix_cache = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def providers(self) -> list[str]:
        """The execution providers in use, by priority."""
        return self.engine.sessions.providers

    @overload
    def generate(
        self, prompt: Prompt, images: Any = None, *, num_return_sequences: int, **options: Any
    ) -> Generation | list[Generation]: ...
    @overload
    def generate(self, prompt: Prompt, images: Any = None, **options: Any) -> Generation: ...
    @overload
    def generate(self, prompt: list[str] | list[list[Message]], images: Any = None, **options: Any) -> list[Generation]: ...
    @overload
    def generate(self, *, input_ids: NDArray[np.int64], **options: Any) -> NDArray[np.int64]: ...
    @overload
    def generate(self, *, inputs_embeds: NDArray[np.floating[Any]], **options: Any) -> NDArray[np.int64]: ...
    def generate(
        self,
        prompt: Any = None,
        images: Any = None,
        *,
        raw: bool = False,
        do_image_splitting: bool | None = None,
        image_features: Any = None,
        **options: Any,
    ) -> Generation | list[Generation] | NDArray[np.int64]:
        """Answer a prompt about images.

        Args:
            prompt: one user turn, a conversation, or a list of either (a batch). A turn without ``<image>`` tags puts its
                images first.
            images: paths, bytes, Pillow images or arrays; one, a list, or one list per prompt of a batch.
            raw: take the text literally, tags included, instead of as a user turn.
            do_image_splitting: override the folder's choice to split images in four; IDEFICS sees them whole.
            image_features: in place of images, what `encode_images` returned for them; with input_ids, in place of
                pixel_values, [tiles, image_seq_len, hidden] of all prompts in order.
            options: any field of GenerationOptions, and, in place of a prompt, the processor's dict: input_ids (or
                inputs_embeds [batch, seq, hidden]), attention_mask, pixel_values, and pixel_attention_mask of Idefics2 or
                image_attention_mask of IDEFICS.

        Returns:
            A Generation, or a list of them for a batch or several sequences. For the processor's dict, like the reference,
            int64 [answers, seq + new] with prompts as they came, answers after them, and pad_token_id after those; for
            inputs_embeds the answers alone.

        Raises:
            PromptError, ImageError: the prompt, an option or an image cannot be used, or they do not fit the model.
            ModelFolderError: the model's numbers are not finite.
        """
        names = self.processor.model_input_names
        inputs = {name: options.pop(name) for name in names if options.get(name) is not None}
        chosen = self.options.replace(**{name: value for name, value in options.items() if name not in names})
        if inputs:
            if prompt is not None or images is not None:
                raise PromptError(f"Both a prompt and {next(iter(inputs))} were given. Give one of them.")
            if image_features is not None:
                inputs["image_features"] = image_features
            for name in ("logprobs", "echo"):
                if getattr(chosen, name):
                    raise PromptError(f"{name} is True, but only ids come back for {next(iter(inputs))}. Give a prompt instead.")
            samples = self.processor.samples(inputs, self.engine.sizes)
            generator = self._finished(samples, chosen)
            return with_answers(inputs.get("input_ids"), [answer.token_ids for answer in generator.answers], chosen)
        request = Request.read(self.processor, prompt, images, raw, do_image_splitting, image_features)
        generator = self._finished(request.samples(self.engine.pixel_type), chosen)
        results = [answer.result() for answer in generator.answers]
        return results if request.batch or len(results) > 1 else results[0]

    @overload
    async def agenerate(
        self, prompt: Prompt, images: Any = None, *, num_return_sequences: int, **options: Any
    ) -> Generation | list[Generation]: ...
    @overload
    async def agenerate(self, prompt: Prompt, images: Any = None, **options: Any) -> Generation: ...
    @overload
    async def agenerate(
        self, prompt: list[str] | list[list[Message]], images: Any = None, **options: Any
    ) -> list[Generation]: ...
    async def agenerate(self, prompt: Any, images: Any = None, *, stopping_criteria: Any = (), **options: Any) -> Any:
        """`generate` in a thread, for ``await``. A task that is cancelled ends it at the next token."""
        cancelled = threading.Event()
        given = stopping_criteria if isinstance(stopping_criteria, list | tuple) else [stopping_criteria]
        if is_one_of(options.get("num_beams", self.options.num_beams), (None, 1)):
            options["stopping_criteria"] = [*given, lambda *_: cancelled.is_set()]
        elif given:
            options["stopping_criteria"] = given
        try:
            return await asyncio.to_thread(lambda: self.generate(prompt, images, **options))
        finally:
            cancelled.set()

    def stream(
        self,
        prompt: Prompt,
        images: Any = None,
        *,
        raw: bool = False,
        do_image_splitting: bool | None = None,
        image_features: Any = None,
        **options: Any,
    ) -> TokenStream:
        """Like `generate` for one prompt, but an iterator of text pieces that join to its text."""
        if is_batch(prompt):
            raise PromptError(f"stream answers one prompt, and {len(prompt)} were given. Use generate for a batch.")
        chosen = self.options.replace(**options)
        chosen.check_one_answer()
        request = Request.read(self.processor, prompt, images, raw, do_image_splitting, image_features)
        return TokenStream(Generator(self, request.samples(self.engine.pixel_type), chosen, streamed=True))

    def map(
        self,
        items: Iterable[Item],
        prompt: Prompt | None = None,
        *,
        ordered: bool = True,
        rows: int = DEFAULT_ROWS,
        raw: bool = False,
        do_image_splitting: bool | None = None,
        **options: Any,
    ) -> Steps[Outcome[Item], None, None]:
        """Answer any number of items, `rows` of them at once, each as `generate` would alone.

        Args:
            items: each one's images, as `generate` takes them, for one prompt; or pairs of prompt and images. Any iterable: few
                of it are taken ahead.
            prompt: of all items.
            ordered: whether outcomes come in the items' order, or as they are there.
            rows: answers that run at once at most.
            raw, do_image_splitting: as in `generate`.
            options: any field of GenerationOptions that leaves one answer that grows: neither beams nor several sequences.

        Returns:
            An iterator of an `Outcome` per item: index, item, and answer or else error. Closed early, it cancels what runs.

        Raises:
            PromptError: an option is wrong. What is wrong with one item is its outcome's error.
        """
        self.options.replace(**options).check_one_answer()
        model = copy(self)  # a copy stays open when this one is closed

        def with_prompt(images: Item) -> tuple[Any, Any]:
            return prompt, images

        request = pair if prompt is None else with_prompt
        given = {"raw": raw, "do_image_splitting": do_image_splitting, **options}
        return outcomes(model, items, request, ordered=ordered, rows=rows, **given)

    def chat(self, messages: list[Message] | None = None, **options: Any) -> Chat:
        """A conversation whose earlier turns are not read again, empty or continued; options are defaults of its turns."""
        # A copy stays open when this one is closed.
        return Chat(copy(self), self.options.replace(**options), messages)

    def encode_images(self, images: Any, do_image_splitting: bool | None = None) -> list[NDArray[np.float32]]:
        """Features of images, to keep in an index and give back as image_features.

        Args:
            images: one image or several, as `generate` takes them.

        Returns:
            One array [tiles, image_seq_len, hidden] per image, float32; five tiles with splitting, else one.
        """
        options = {} if do_image_splitting is None else {"do_image_splitting": do_image_splitting}
        prepared = self.processor.image_processor
        tiles = prepared.tiles(flat_images(images), prepared.options.replace(**options), prepared.upright, self.engine.pixel_type)
        features = iter(self.engine.encode_images([tile for own in tiles for tile in own]))
        return [np.concatenate([next(features).read()[0] for _ in own]) for own in tiles]

    def logits(self, inputs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Logits of every position of the processor's dict, or of one with inputs_embeds or image_features.

        Returns:
            float32 [batch, seq, vocab], aligned with the tokens on whichever side those are padded; zero at padding.
        """
        samples = self.processor.samples(inputs, self.engine.sizes)
        mask = token_mask(tokens_of(inputs, self.processor.model_input_names), inputs.get("attention_mask"))
        aligned = np.zeros((*mask.shape, self.engine.sizes.vocab_size), np.float32)
        for row, found in enumerate(all_logits(self.engine, samples)):
            aligned[row, mask[row]] = found
        return aligned

    @overload
    def score(self, prompt: Prompt, images: Any = None, answer: str = ..., **inputs: Any) -> Score: ...
    @overload
    def score(self, prompt: list[str] | list[list[Message]], images: Any, answer: list[str], **inputs: Any) -> list[Score]: ...
    @overload
    def score(self, *, input_ids: NDArray[np.int64], **inputs: Any) -> list[Score]: ...
    def score(
        self,
        prompt: Any = None,
        images: Any = None,
        answer: Any = None,
        *,
        labels: NDArray[np.int64] | None = None,
        raw: bool = False,
        do_image_splitting: bool | None = None,
        image_features: Any = None,
        **inputs: Any,
    ) -> Score | list[Score]:
        """How likely the model finds an answer to a prompt, or the labels of the processor's dict.

        Args:
            prompt, images, raw, do_image_splitting, image_features: as in `generate`.
            answer: the text to score; one per prompt of a batch. As a turn it is scored with its end token; raw, as it is.
            labels: with input_ids, int64 [batch, seq], each at its token's place, −100 where none counts, as in the
                reference; left out, the ids themselves, but for image tokens and padding.

        Returns:
            A Score, or one per row; the reference's loss of a batch is the mean over all tokens of all rows.
        """
        for name in inputs:
            if name not in (names := self.processor.model_input_names):
                raise PromptError(f"There is no {name!r:.60} to score. Give a prompt and an answer, or {', '.join(names)}.")
        if inputs:
            if prompt is not None or answer is not None or images is not None:
                raise PromptError(f"Both a prompt and {next(iter(inputs))} were given. Give one of them.")
            given = inputs if image_features is None else inputs | {"image_features": image_features}
            samples = self.processor.samples(given, self.engine.sizes)
            mask = token_mask(tokens_of(given, self.processor.model_input_names), given.get("attention_mask"))
            if labels is None:
                own = default_labels(samples, self.engine.sizes.image_token_id)
            else:
                own = check_labels(labels, mask, self.engine.sizes.vocab_size)
            return score(self.engine, samples, own)
        if labels is not None:
            raise PromptError("labels go with input_ids. Give answer for a prompt.")
        request = Request.read(self.processor, prompt, images, raw, do_image_splitting, image_features)
        answers = answer if request.batch else [answer]
        if not isinstance(answers, list | tuple) or not all(isinstance(a, str) for a in answers):
            raise PromptError(f"answer is {answer!r:.60}. Give text, or one text per prompt of a batch.")
        if len(answers) != len(request.prompts):
            raise PromptError(f"There are {len(request.prompts)} prompts and {len(answers)} answers. Give one answer per prompt.")
        samples = request.samples(self.engine.pixel_type, list(answers))
        scores = score(self.engine, samples, answer_labels(request.ids(), samples, self.options.eos_token_id))
        return scores if request.batch else scores[0]

    def _finished(self, samples: Sequence[Sample], options: GenerationOptions) -> Generator:
        generator = Generator(self, samples, options)
        for _ in generator.steps():
            pass
        return generator
