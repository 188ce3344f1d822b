"""The three graphs as verbs: encode images, embed tokens, decode over a cache. What lies between stays on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..graphs.contract import GraphName, ModelSizes, graph_file
from .cache import BFLOAT16, KeyValueCache
from .errors import ProviderError
from .folder import ModelFolder
from .padding import Tile
from .positions import position_ids
from .sessions import Sessions

if TYPE_CHECKING:
    import onnxruntime as ort

PATCHES_PER_CALL = 4 * 70 * 70
"""Images of one size are encoded together up to this many patches, which bounds the activations' memory."""
_DTYPES: dict[str, type[np.generic] | None] = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(bfloat16)": None,
}  # fmt: skip


@dataclass(frozen=True)
class ImageFeatures:
    """Encoded tiles, in device memory."""

    values: ort.OrtValue
    """[num_rows, hidden]"""
    first_rows: list[int]
    """Where each tile's rows begin; they need not lie in the tiles' order."""


@dataclass
class Engine:
    """Runs the graphs of one model."""

    sessions: Sessions
    sizes: ModelSizes
    _dtype: type[np.generic] | None = field(init=False)
    _pixel_dtype: type[np.generic] | None = field(init=False)

    @classmethod
    def open(cls, folder: ModelFolder, sessions: Sessions) -> Engine:
        return cls(sessions, folder.manifest.model)

    def __post_init__(self) -> None:
        self._dtype = _DTYPES[self.sessions.vision.get_outputs()[0].type]
        self._pixel_dtype = _DTYPES[self.sessions.vision.get_inputs()[0].type]

    def encode_images(self, tiles: Sequence[Tile]) -> ImageFeatures:
        """Encode tiles of any sizes, those of one size together and none of them padded."""
        rows, hidden = self.sizes.image_seq_len, self.sizes.hidden_size
        values = self._empty((len(tiles) * rows, hidden))
        first_rows, done = [0] * len(tiles), 0
        for group in self._groups(tiles):
            height, width = tiles[group[0]].shape[1:]
            grid = height // self.sizes.patch_size, width // self.sizes.patch_size
            binding = self.sessions.vision.io_binding()
            binding.bind_cpu_input("pixel_values", np.stack([tiles[i] for i in group]).astype(self._pixel_dtype, copy=False))
            binding.bind_cpu_input("position_ids", position_ids(*grid, self.sizes.positions_per_side))
            start = values.data_ptr() + done * rows * hidden * self._itemsize
            shape = (len(group), rows, hidden)
            binding.bind_output("image_features", self.sessions.memory, 0, self._dtype or BFLOAT16, shape, start)
            _run("vision", self.sessions.vision, binding)
            for i in group:
                first_rows[i] = done * rows
                done += 1
        return ImageFeatures(values, first_rows)

    def _groups(self, tiles: Sequence[Tile]) -> list[list[int]]:
        """Indices of tiles of one size, at most `PATCHES_PER_CALL` patches together."""
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, tile in enumerate(tiles):
            by_size.setdefault(tile.shape, []).append(index)
        groups = []
        for (_, height, width), members in by_size.items():
            patches = (height // self.sizes.patch_size) * (width // self.sizes.patch_size)
            step = max(1, PATCHES_PER_CALL // max(1, patches))
            groups += [members[i : i + step] for i in range(0, len(members), step)]
        return groups

    def embed(self, ids: NDArray[np.int64], features: ImageFeatures | None = None, rows: NDArray[np.int64] | None = None) -> Any:
        """Token ids [batch, seq] → inputs_embeds [batch, seq, hidden] as an OrtValue; `rows` as the contract's feature_rows."""
        binding = self.sessions.embedding.io_binding()
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input("feature_rows", np.full_like(ids, -1) if rows is None else rows)
        binding.bind_ortvalue_input("image_features", self._no_features if features is None else features.values)
        binding.bind_output("inputs_embeds", self.sessions.memory)
        _run("embedding", self.sessions.embedding, binding)
        return binding.get_outputs()[0]

    def new_cache(self, batch: int, capacity: int) -> KeyValueCache:
        """An empty cache for `batch` rows of up to `capacity` tokens."""
        return KeyValueCache(self.sizes, batch, capacity, self._dtype, self.sessions.memory)

    def decode(
        self, embeds: Any, new: NDArray[np.int64], cache: KeyValueCache, positions: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Run the decoder over right-padded embeddings, add their tokens to the cache, and return logits.

        Args:
            embeds: OrtValue [batch, seq, hidden].
            new: tokens of each row that are not padding, int64 [batch].
            positions: where logits are wanted, counted from the first new token, int64 [batch, k].

        Returns:
            float32 [batch, k, vocab].
        """
        seq = embeds.shape()[1]
        width = seq if not cache.tokens.any() else int((cache.tokens + new).max())
        binding = self.sessions.decoder.io_binding()
        binding.bind_ortvalue_input("inputs_embeds", embeds)
        binding.bind_cpu_input("attention_mask", cache.mask(new, width))
        binding.bind_cpu_input("logit_positions", positions)
        binding.bind_output("logits", "cpu")
        cache.bind(binding)
        _run("decoder", self.sessions.decoder, binding)
        cache.tokens = cache.tokens + new
        logits: NDArray[np.float32] = binding.get_outputs()[0].numpy()
        return logits

    @property
    def _itemsize(self) -> int:
        return 4 if self._dtype is np.float32 else 2

    @property
    def _no_features(self) -> Any:
        return self._empty((0, self.sizes.hidden_size))

    def _empty(self, shape: tuple[int, ...]) -> Any:
        import onnxruntime as ort

        return ort.OrtValue.ortvalue_from_shape_and_type(shape, self._dtype or BFLOAT16, self.sessions.memory, 0)


def _run(graph: GraphName, session: ort.InferenceSession, binding: ort.IOBinding) -> None:
    try:
        session.run_with_iobinding(binding)
    except Exception as error:  # onnxruntime's errors share no base but Exception
        reason = str(error).strip().splitlines()[0]
        raise ProviderError(
            f"ONNX Runtime could not run {graph_file(graph)} ({reason:.300}). "
            "If memory ran out, use fewer or unsplit images; else check the folder with `idefics2-onnx verify`."
        ) from error
