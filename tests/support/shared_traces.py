"""Traced graphs that the processes of a test run have in common: tracing takes most of a small export's time.

What is traced depends on a config's sizes and flags alone, and the weights come afterwards.
"""

from __future__ import annotations

import gc
import hashlib
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
from filelock import FileLock
from idefics2_onnx.export import pipeline
from idefics2_onnx.export.trace import OPERATORS, TracedGraph, Weight, trace_graphs
from idefics2_onnx.graphs.contract import ModelSizes
from torch.onnx._internal.exporter._registration import ONNXRegistry


def share_traces(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Have exports of this process trace each kind of graph once, and take what any process has traced from a folder."""
    found: dict[str, list[TracedGraph]] = {}
    registries: dict[Any, ONNXRegistry] = {}
    registry = ONNXRegistry.from_torchlib

    def once(opset_version: int = ONNXRegistry().opset_version) -> ONNXRegistry:
        """torch lists its thousand operators again for every graph."""
        return registries.get(opset_version) or registries.setdefault(opset_version, registry(opset_version))

    def trace(config: Any, sizes: ModelSizes, dtype: Any, attention: Any, quantised: bool) -> Iterator[TracedGraph]:
        kind = dtype, attention, quantised and OPERATORS[attention].joins  # else it makes no difference
        key = hashlib.sha256(repr((_traced_of(config.to_dict()), replace(sizes, num_parameters=0), *kind)).encode()).hexdigest()
        if key not in found:
            file = folder / f"{key}.trace"
            with FileLock(f"{file}.lock"):
                if not file.exists():
                    gc.disable()  # a trace makes a million objects that stay
                    try:
                        traced = list(trace_graphs(config, sizes, *kind))
                    finally:
                        gc.enable()
                    file.write_bytes(pickle.dumps([_packed(graph) for graph in traced]))
            found[key] = [_unpacked(*packed) for packed in pickle.loads(file.read_bytes())]
        return (traced.copy(traced.name) for traced in found[key])

    patch.setattr(pipeline, "trace_graphs", trace)
    patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(once))


def _traced_of(config: dict[str, Any]) -> dict[str, Any]:
    """A config without what says how the checkpoint's weights were stored, and by whom: tied ones come apart to be traced."""
    storage = ("dtype", "quantization_config", "tie_word_embeddings", "_name_or_path", "transformers_version")
    told = {name: value for name, value in sorted(config.items()) if name not in storage}
    return {name: _traced_of(value) if isinstance(value, dict) else value for name, value in told.items()}


def _packed(traced: TracedGraph) -> tuple[Any, ...]:
    """What pickle takes. The weights are yet to come, so that each is said to lie in a file, which nobody reads."""
    model = traced.model.clone()
    for name in traced.weights:
        value = model.graph.initializers[name]
        assert value.shape is not None
        assert value.dtype is not None
        value.const_value = ir.ExternalTensor("none", 0, 0, value.dtype, shape=value.shape, name=name)
    return traced.name, ir.to_proto(model).SerializeToString(), traced.weights


def _unpacked(name: Any, content: bytes, weights: dict[str, Weight]) -> TracedGraph:
    return TracedGraph(name, ir.from_proto(onnx.ModelProto.FromString(content)), weights)
