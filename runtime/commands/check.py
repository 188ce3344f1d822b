"""Check a model folder without its checkpoint: files, hashes, interfaces, and that every graph computes finite numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ...graphs.errors import ModelFolderError
from ..devices.sessions import open_sessions
from ..engine.opening import open_engine
from ..errors import ProviderError
from ..folder import ModelFolder
from ..generation.host_files import HostFiles
from .probe import Probe

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
    probe = Probe.of(open_engine(folder, sessions))
    logits = np.concatenate([probe.prompt_logits[:, -1:], probe.step_logits])
    for graph, values in {"vision.onnx": probe.features, "embedding.onnx": probe.embeds, "decoder.onnx": logits}.items():
        if not np.isfinite(values).all():
            raise ModelFolderError(
                f"{graph} computes {int((~np.isfinite(values)).sum())} values that are not finite, of {values.size}. "
                "Export the model again, with --fp32 if this is fp16."
            )
        yield f"{graph}: {values.size} finite values, standard deviation {values.std():.3g}"
