"""The graphs as verbs: encode images, embed tokens, decode over a cache. What lies between stays on the device.

What a model's images do to its tokens is said by a class of its own: `Idefics2Engine`, `IdeficsEngine`.

A DecodeStep binds the embedding and the decoder by itself, once for all the steps of an answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ...graphs.contract import GraphName, ModelSizes, Precision, graph_file
from ...graphs.errors import ModelFolderError
from ..devices.machine import total_memory
from ..devices.sessions import Sessions
from ..errors import PromptError
from ..memory.bound import Bound
from ..memory.buffer import Buffer, Storage
from ..memory.feature_cache import FeatureCache, tile_digest
from ..memory.host import HostOutput
from ..memory.key_value_cache import KeyValueCache
from ..parallel import in_parallel
from ..sample import Sample, Tile
from .call import run
from .interruption import Interruption
from .timings import Timings

if TYPE_CHECKING:
    import onnxruntime as ort

PATCHES_PER_CALL = 4 * 70 * 70
"""Images of one size are encoded together up to this many patches, which bounds the activations' memory."""
_PIXELS: dict[str, type[np.generic]] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class Sight(Protocol):
    """What the tokens of some prompts see besides tokens, for one decoder call."""

    def between(self, begin: int, end: int) -> Self:
        """The same for a piece of the prompts."""


@dataclass
class Engine(ABC):
    """Runs the graphs of one model. Safe to use from several threads."""

    sessions: Sessions
    sizes: ModelSizes
    precision: dict[GraphName, Precision]
    feature_cache: FeatureCache = field(default_factory=lambda: FeatureCache(0))
    argmax: ort.InferenceSession | None = None
    """Chooses tokens where the logits are; None where that is in the host's memory."""
    storage: Storage = field(init=False)
    pixel_type: type[np.generic] = field(init=False)
    """What the vision graph takes."""
    _recording: Lock = field(default_factory=Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        self.storage = Storage.of(self.sessions.vision, self.sessions.memory, self.sessions.gpu)
        self.pixel_type = _PIXELS[self.sessions.vision.get_inputs()[0].type]

    @contextmanager
    def beside_recordings(self) -> Iterator[None]:
        """Where work on the GPU may come from two threads: while one records a CUDA graph, the other waits.

        CUDA ends a recording, and fails the call, when another thread takes memory or waits for the GPU meanwhile.
        """
        if not self.sessions.gpu_options.cuda_graph:
            yield
            return
        with self._recording:
            yield

    def encode_images(
        self, tiles: Sequence[Tile], timings: Timings | None = None, interruption: Interruption | None = None
    ) -> list[Buffer]:
        """Encode tiles of any sizes, those of one size together and none of them padded, and none that is known already.

        Args:
            interruption: what ends it from another thread.

        Returns:
            Features [1, 1, image_seq_len, hidden] of each tile.

        Raises:
            ModelFolderError: they are not finite.
            Cancelled: the interruption came.
        """
        if any(tile.dtype != self.pixel_type for tile in tiles):
            tiles = in_parallel(lambda tile: tile.astype(self.pixel_type, copy=False), tiles)
        digests = in_parallel(tile_digest, tiles) if self.feature_cache.max_bytes and tiles else None
        # Equal tiles are encoded once, in the place of the first of them.
        known: dict[bytes, int] = {}
        first = [known.setdefault(digest, index) for index, digest in enumerate(digests)] if digests else list(range(len(tiles)))
        found = {index: self.feature_cache.get(digests[index]) if digests else None for index in sorted(set(first))}
        missing = [index for index, features in found.items() if features is None]
        for group in self._groups(tiles, missing):
            encoded = self._encode([tiles[i] for i in group], interruption)
            for row, index in enumerate(group):
                own = found[index] = self._feature_buffer(1)
                own.copy(0, encoded, row, 0, self.sizes.image_seq_len)
                if digests is not None:
                    self.feature_cache.put(digests[index], own)
        if timings is not None:
            timings.images_encoded += len(missing)
            timings.images_reused += len(tiles) - len(missing)
        return [features for index in first if (features := found[index])]

    def features_from(self, values: NDArray[Any]) -> Buffer:
        """Features of one tile [image_seq_len, hidden] that the caller has."""
        self._check_range(values, "image_features")
        buffer = self._feature_buffer(1)
        buffer.write(values)
        return buffer

    @abstractmethod
    def embed(self, ids: NDArray[np.int64]) -> Buffer:
        """Token ids [batch, seq], none of which stands for an image → inputs_embeds [batch, 1, seq, hidden]."""

    @abstractmethod
    def bind_tokens(self, bound: Bound, ids: ort.OrtValue, batch: int) -> None:
        """Bind what the embedding takes for one token id per row, none of which stands for an image."""

    @abstractmethod
    def embed_ids(self, samples: Sequence[Sample], features: Sequence[Buffer], begin: int, end: int) -> Buffer:
        """`embed_prompts` of samples that have ids."""

    def embed_prompts(self, samples: Sequence[Sample], features: Sequence[Buffer], begin: int, end: int) -> Buffer:
        """Right-padded embeddings of the tokens begin to end of some samples, whose tiles' features are given in order."""
        if samples[0].embeds is None:
            return self.embed_ids(samples, features, begin, end)
        embeds = np.zeros((len(samples), end - begin, self.sizes.hidden_size), np.float32)
        for row, sample in enumerate(samples):
            assert sample.embeds is not None
            embeds[row, : sample.tokens - begin] = sample.embeds[begin:end]
        return self.embeds_from(embeds)

    @abstractmethod
    def look(self, samples: Sequence[Sample], features: Sequence[Buffer]) -> Sight | None:
        """What the tokens of some prompts see, whose tiles' features are given in order; None where images are among tokens."""

    @abstractmethod
    def keep_sight(self, cache: KeyValueCache, first_row: int, samples: Sequence[Sample], sight: Sight | None) -> None:
        """Have new tokens of rows of a cache see what the last ones of their prompts do."""

    @abstractmethod
    def bind_images(
        self, bound: Bound, cache: KeyValueCache, first_row: int, batch: int, seq: int, sight: Sight | None = None, first: int = 0
    ) -> None:
        """Bind what `seq` new tokens of some rows see: by `sight`, from its row `first` on, or without it by the cache."""

    def embeds_from(self, values: NDArray[Any]) -> Buffer:
        """Embeddings [batch, seq, hidden] that the caller has, in a buffer as `embed` gives it."""
        self._check_range(values, "inputs_embeds")
        batch, seq, hidden = values.shape
        buffer = self.storage.buffer(batch, 1, seq, hidden)
        buffer.write(values)
        return buffer

    def new_cache(self, batch: int, capacity: int) -> KeyValueCache:
        """An empty cache for `batch` rows of `capacity` tokens."""
        return KeyValueCache(self.sizes, self.storage, batch, capacity)

    @property
    def cache_bytes_per_token(self) -> int:
        """Bytes of keys and values that a token takes in one row."""
        return self.sizes.num_layers * self._layer_bytes

    @property
    def cache_bytes_per_image(self) -> int:
        """Bytes of keys and values of an image that gated layers look at, apart from its token's."""
        return self.sizes.num_cross_layers * self.sizes.image_seq_len * self._layer_bytes

    @property
    def _layer_bytes(self) -> int:
        """Of one key and one value, of all heads."""
        return 2 * self.sizes.num_key_value_heads * self.sizes.head_dim * self.storage.item_bytes

    def check_room(self, rows: int, longest: int, images: int) -> None:
        """Raise PromptError unless so many rows of prompts of so many tokens fit this machine: their keys and values at first,
        those of images that gated layers look at, and their logits three times over, as sampling and beam search take them.
        """
        of_images = images * self.cache_bytes_per_image
        needed = rows * (longest * self.cache_bytes_per_token + 3 * 4 * self.sizes.vocab_size) + of_images
        total = total_memory()
        if total is not None and needed > total and (rows > 1 or of_images):
            what = f"{rows:,} row{'s' * (rows != 1)} of {longest:,} prompt tokens"
            what += f" and {of_images / 1e9:,.1f} GB of their images' keys and values" if of_images else ""
            raise PromptError(
                f"{what} need {needed / 1e9:,.1f} GB; this machine has {total / 1e9:,.1f}. "
                f"Lower num_beams or num_return_sequences, or give fewer prompts{' or images' if of_images else ''} at once."
            )

    @property
    def reads_apart(self) -> bool:
        """Whether prompts have a graph of their own, which would not write quite the same into the cache as the decoder."""
        return self.sessions.prompt is not self.sessions.decoder

    def decode(
        self,
        embeds: Buffer,
        new: NDArray[np.int64],
        cache: KeyValueCache,
        positions: NDArray[np.int64],
        first_row: int = 0,
        graph: Literal["decoder", "prompt"] = "decoder",
        sight: Sight | None = None,
    ) -> NDArray[np.float32]:
        """Run the decoder over right-padded embeddings, add their tokens to rows of the cache, and return logits.

        Args:
            embeds: [batch, 1, seq, hidden].
            new: tokens of each row that are not padding, int64 [batch].
            cache: with room for them.
            positions: where logits are wanted, counted from the first new token, int64 [batch, k].
            first_row: the cache's row of the first of them.
            graph: "prompt" for tokens of a prompt.
            sight: what they see, of a prompt's; other tokens see what their rows of the cache do.

        Returns:
            float32 [batch, k, vocab].
        """
        batch, _, seq, _ = embeds.shape
        if batch > 1 and seq > 1 and cache.tokens[first_row : first_row + batch].any():
            # GroupQueryAttention takes several new tokens after a past for one row only.
            calls = [(row, slice(row, row + 1)) for row in range(batch)]
            return np.concatenate(
                [
                    self._decode(embeds, row, 1, new[own], cache, positions[own], first_row + row, graph, sight)
                    for row, own in calls
                ]
            )
        return self._decode(embeds, 0, batch, new, cache, positions, first_row, graph, sight)

    def _decode(
        self,
        embeds: Buffer,
        first: int,
        batch: int,
        new: NDArray[np.int64],
        cache: KeyValueCache,
        positions: NDArray[np.int64],
        first_row: int,
        graph: Literal["decoder", "prompt"],
        sight: Sight | None,
    ) -> NDArray[np.float32]:
        """`decode` of some rows of the embeddings."""
        seq, hidden = int(new.max()) if batch == 1 else embeds.shape[2], self.sizes.hidden_size
        tokens = cache.tokens[first_row : first_row + batch] + new
        width = seq if int(tokens.max()) == int(new.max()) else int(tokens.max())
        assert max(width, int(tokens.max())) <= cache.capacity, "the caller reserves the room"
        session = self.sessions.prompt if graph == "prompt" else self.sessions.decoder
        bound = Bound(session)
        bound.input("inputs_embeds", embeds.rows(first, first + batch, (batch, seq, hidden)))
        self._bind(bound, "attention_mask", (np.arange(width) < tokens[:, None]).astype(np.int64))
        self.bind_images(bound, cache, first_row, batch, seq, sight, first)
        self._bind(bound, "logit_positions", positions)
        logits = HostOutput((*positions.shape, self.sizes.vocab_size), self.storage)
        bound.output("logits", logits.value)
        cache.bind(bound, first_row, batch)
        run(graph if self.reads_apart else "decoder", session, bound.binding)
        cache.add(first_row, new)
        return logits.pull()

    def check_finite(
        self,
        logits: NDArray[np.float32],
        features: Sequence[Buffer] = (),
        graph: Literal["decoder", "prompt"] = "decoder",
    ) -> None:
        """Raise ModelFolderError, naming the graph to blame, if logits are not numbers to choose a token by.

        `graph` computed them, of images with these features.
        """
        if not logits.size or (np.isfinite(logits.max()) and np.isfinite(logits.min())):
            return
        blamed: GraphName = graph if self.reads_apart else "decoder"
        if not all(np.isfinite(buffer.read()).all() for buffer in features):
            blamed = "vision"
        advice = "Export the model again with --fp32 or --bf16, which overflow later."
        if self.sessions.vision.get_outputs()[0].type == "tensor(float)":
            advice = "Its weights may be damaged: run `idefics2-onnx verify`."
        raise ModelFolderError(f"{graph_file(blamed)} ({self.precision[blamed]}) computed numbers that are not finite. {advice}")

    def _check_range(self, values: NDArray[Any], name: str) -> None:
        """Raise PromptError for numbers of the caller's that the graphs' type does not hold."""
        largest = float(np.abs(values).max(initial=0))
        if largest > self.storage.largest:
            raise PromptError(
                f"{name} has numbers up to {largest:.3g}, and this folder's type holds {self.storage.largest:,.0f}. Give those "
                "that this model computes, or export with --fp32."
            )

    def _encode(self, tiles: Sequence[Tile], interruption: Interruption | None = None) -> Buffer:
        """Features of tiles of one size."""
        encoded = self._feature_buffer(len(tiles))
        shape = (len(tiles), self.sizes.image_seq_len, self.sizes.vision_width)
        bound = Bound(self.sessions.vision)
        self._bind(bound, "pixel_values", np.ascontiguousarray(tiles[0])[None] if len(tiles) == 1 else np.stack(tiles))
        bound.output("image_features", encoded.rows(0, len(tiles), shape))
        run("vision", self.sessions.vision, bound.binding, interruption=interruption)
        return encoded

    def _groups(self, tiles: Sequence[Tile], wanted: Sequence[int]) -> list[list[int]]:
        """Indices of tiles of one size, at most `PATCHES_PER_CALL` patches together."""
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index in wanted:
            by_size.setdefault(tiles[index].shape, []).append(index)
        groups = []
        for (_, height, width), members in by_size.items():
            patches = (height // self.sizes.patch_size) * (width // self.sizes.patch_size)
            step = max(1, PATCHES_PER_CALL // max(1, patches))
            step = min(step, self.sessions.images_per_call or step)
            groups += [members[i : i + step] for i in range(0, len(members), step)]
        return groups

    def _bind(self, bound: Bound, name: str, array: NDArray[Any]) -> None:
        """An array of the host's. To a GPU it is copied here and now: a run would not wait for a copy of the binding's own."""
        if self.storage.device == "cpu":
            bound.array(name, array)
        else:
            bound.input(name, self.storage.tensor(array))

    def _feature_buffer(self, tiles: int) -> Buffer:
        return self.storage.buffer(tiles, 1, self.sizes.image_seq_len, self.sizes.vision_width)
