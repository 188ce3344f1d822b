"""Exports in processes of their own, which have no threads of other tests in them and do not import torch each."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from idefics2_onnx.export import export_model, pipeline
from idefics2_onnx.export.errors import CheckpointError
from shared_traces import share_traces


def apart(target: Any, *arguments: Any) -> BaseProcess:
    """A process, forked from one that has imported this module and done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def export_with_small_files(source: Path, target: Path, traces: Path, said: Any) -> None:
    import resource  # which Windows does not have

    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
    share_traces(traces, pytest.MonkeyPatch())
    try:
        export_model(source, target, "fp32", verify="never")
    except CheckpointError as error:
        said.send(str(error))


def export_that_takes_long(source: Path, target: Path, traces: Path) -> None:
    """Stops before the decoder for ten minutes, so that it can be stopped for good."""
    share_traces(traces, pytest.MonkeyPatch())
    real = pipeline.write_graph

    def write(graph: Any, *rest: Any) -> Any:
        if graph.name == "decoder":
            time.sleep(600)
        return real(graph, *rest)

    pipeline.write_graph = write
    export_model(source, target, "fp32", verify="never")
