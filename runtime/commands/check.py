"""Check a model folder without its checkpoint: files, hashes, interfaces, and that every graph computes finite numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ...graphs.errors import ModelFolderError
from ..devices.sessions import open_sessions
from ..engine.engine import Engine
from ..engine.prefill import embed_prompts
from ..errors import ProviderError
from ..folder import ModelFolder
from ..generation.host_files import HostFiles
from ..sample import Sample

_NAMED = 5


def check_folder(folder: ModelFolder, device: str = "auto", on_bytes: Callable[[int], None] = lambda _: None) -> Iterator[str]:
    """Yield a line for each thing that was checked.

    Raises:
        ModelFolderError: the first thing that is wrong.
        ProviderError: the device does not work here.
    """
    folder.check(on_bytes=on_bytes)
    yield f"files: {len(folder.manifest.files)} complete, sizes and SHA-256 as in the manifest"
    if unlisted := folder.unlisted():
        more = f" and {len(unlisted) - _NAMED} more" if len(unlisted) > _NAMED else ""
        yield f"not checked: {', '.join(map(repr, unlisted[:_NAMED]))}{more}, which the manifest does not list and nothing reads"
    HostFiles.read(folder.path, folder.manifest.model)
    yield "processor: tokenizer, image options and chat template readable"
    try:
        sessions = open_sessions(folder, device)
    except ProviderError:
        if device != "auto" or folder.manifest.dtype != "bf16":
            raise
        yield "not run: the graphs, which are bf16 and need CUDA"
        return
    yield f"interfaces: as in the contract, on {sessions.providers[0]}"
    for graph, values in _outputs(Engine.open(folder, sessions)):
        if not np.isfinite(values).all():
            raise ModelFolderError(
                f"{graph} computes {int((~np.isfinite(values)).sum())} values that are not finite, of {values.size}. "
                "Export the model again, with --fp32 if this is fp16."
            )
        yield f"{graph}: {values.size} finite values, standard deviation {values.std():.3g}"


def _outputs(engine: Engine) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """What each graph makes of a small image and a prompt about it."""
    sizes = engine.sizes
    random = np.random.default_rng(0)
    side = sizes.patch_size * min(sizes.positions_per_side, 4)
    features = engine.encode_images([random.uniform(-1, 1, (3, side, side)).astype(np.float32)])
    text = [i for i in range(min(8, sizes.vocab_size)) if i != sizes.image_token_id]
    sample = Sample([*text, *[sizes.image_token_id] * sizes.image_seq_len], [np.zeros((3, side, side), np.float32)])
    embeds = embed_prompts(engine, [sample], features, 0, sample.tokens)
    length = np.array([sample.tokens])
    cache = engine.new_cache(1, sample.tokens + 1)
    prefill = engine.decode(embeds, length, cache, length[:, None] - 1, graph="prompt")
    step = engine.decode(engine.embed(np.array([text[:1]])), np.array([1]), cache, np.zeros((1, 1), np.int64))
    yield "vision.onnx", features[0].read()
    yield "embedding.onnx", embeds.read()
    yield "decoder.onnx", np.concatenate([prefill, step])
