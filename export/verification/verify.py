"""Compare a folder with its checkpoint in a process of its own, so that the memory comes back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil

from ...graphs.contract import Manifest, data_file
from ...runtime.folder import read_manifest
from ..errors import CheckpointError
from ..heap import in_large_pages
from ..source.source_model import SourceModel
from .difference import Verification


def verify_folder(
    folder: str | Path, source: str | Path, whole: bool | None = None, adapter: str | Path | None = None
) -> Verification:
    """Compare a model folder with its checkpoint, a folder or hub id. Raises CheckpointError if they cannot be compared."""
    model = SourceModel.open(source, adapter=Path(adapter) if adapter is not None else None)
    manifest = read_manifest(Path(folder))
    if model.sizes != manifest.model:
        raise CheckpointError(
            f"{folder} was made from {manifest.source}, and {source} is a model of other sizes. Name its checkpoint."
        )
    return verify_in_subprocess(Path(folder), model.checkpoint.folder, whole, model.adapter)


def memory_needed(manifest: Manifest) -> int:
    """Bytes for whole graphs, which ONNX Runtime widens to fp32 on CPU, beside the reference, which holds some rows at a time."""
    widened = sum(manifest.files[data_file(graph)].size * (1 if manifest.dtype == "fp32" else 3) for graph in manifest.graphs)
    return widened + (1 << 30)


def verify_in_subprocess(
    folder: Path, checkpoint: Path, whole: bool | None = None, adapter: str | Path | None = None
) -> Verification:
    """Compare `folder` with `checkpoint`: its weights and attributes exactly, its numbers piece by piece, and the graphs as a
    whole, too, if `whole` says so or (None) the memory for it is free.
    """
    needed, free = memory_needed(read_manifest(folder)), psutil.virtual_memory().available
    pieces = not whole if whole is not None else needed > free
    package = __name__.removesuffix(".verify")
    # -P: a file in the current folder, maybe the checkpoint's, must not be imported.
    command = [sys.executable, "-P", "-m", package, str(folder), str(checkpoint), "pieces" if pieces else "whole"]
    command += [] if adapter is None else [str(adapter)]
    # NumPy's products are small here, and its threads would wait for the next one busily.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"} | in_large_pages()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        reason = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise CheckpointError(
            f"The model folder could not be compared with the reference ({reason}). "
            "`export --verify never` keeps a folder uncompared."
        )
    verification = Verification.from_dict(json.loads(done.stdout.splitlines()[-1]))
    if pieces:
        missing = f"the graphs as a whole, which take {needed / 1e9:.1f} GB of memory where {free / 1e9:.1f} GB are free"
        verification.not_run.append(missing)
    return verification
