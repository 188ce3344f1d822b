"""A graph on OpenVINO instead of ONNX Runtime, behind the few methods of a session that the engine uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...graphs.errors import ModelFolderError
from ..errors import ProviderError
from ..outside.requirement import install

if TYPE_CHECKING:
    import onnxruntime as ort

PROVIDER = "OpenVINO"
_TYPES = {"f32": "tensor(float)", "f16": "tensor(float16)", "i64": "tensor(int64)"}
_POLL = 50
"""Milliseconds between two looks whether a run should end early."""


@dataclass(frozen=True)
class Tensor:
    """An input or output, as ONNX Runtime describes it."""

    name: str
    type: str
    shape: list[int | str]


@dataclass
class Binding:
    """Arrays to read, and where to put what comes out."""

    inputs: dict[str, NDArray[Any]] = field(default_factory=dict)
    outputs: dict[str, ort.OrtValue] = field(default_factory=dict)

    def bind_cpu_input(self, name: str, array: NDArray[Any]) -> None:
        self.inputs[name] = array

    def bind_ortvalue_output(self, name: str, value: ort.OrtValue) -> None:
        self.outputs[name] = value


class OpenVinoSession:
    """One graph, compiled for the processor in the precision that OpenVINO finds best: bfloat16 where it is in hardware."""

    def __init__(self, path: Path) -> None:
        try:
            import openvino
        except ModuleNotFoundError as error:
            raise ProviderError(f"OpenVINO is not installed. Run: {install('openvino')}") from error
        core = openvino.Core()
        try:
            model = core.read_model(path)
            self._compiled = core.compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
        except Exception as error:  # OpenVINO's errors are RuntimeErrors of every kind
            reason = str(error).strip().splitlines()[-1]
            raise ModelFolderError(f"OpenVINO cannot open {path} ({reason:.300}). Use another device.") from error
        self._tensors = [[_described(port) for port in side] for side in (model.inputs, model.outputs)]

    def get_inputs(self) -> Sequence[Tensor]:
        return self._tensors[0]

    def get_outputs(self) -> Sequence[Tensor]:
        return self._tensors[1]

    def get_providers(self) -> list[str]:
        return [PROVIDER]

    def io_binding(self) -> Binding:
        return Binding()

    def run_with_iobinding(self, binding: Binding, options: ort.RunOptions | None = None) -> None:
        """Run; options.terminate, set from another thread, ends it."""
        request = self._compiled.create_infer_request()
        request.start_async(binding.inputs, share_inputs=True)
        while not request.wait_for(_POLL):
            if options is not None and options.terminate:
                request.cancel()
        for name, value in binding.outputs.items():
            value.update_inplace(np.ascontiguousarray(request.get_tensor(name).data))


def _described(port: Any) -> Tensor:
    shape = [f"axis_{i}" if axis.is_dynamic else axis.get_length() for i, axis in enumerate(port.get_partial_shape())]
    kind = port.get_element_type().get_type_name()
    return Tensor(port.get_any_name(), _TYPES.get(kind, kind), shape)
