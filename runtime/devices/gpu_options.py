"""How graphs run on GPUs: the choices of ONNX Runtime's CUDA and TensorRT providers that matter here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ..checks import Check, checked, flag, is_number
from ..errors import PromptError, ProviderError
from .device import on_gpu
from .onnx_runtime import narrow_squares


@dataclass(frozen=True)
class GpuOptions:
    """Options for CUDA and TensorRT; without a GPU they do nothing."""

    tf32: bool = False
    """Let fp32 folders multiply with TF32's 10 bits instead of 23: faster, and no longer the reference's numbers."""
    tuning: bool = False
    """Let ONNX Runtime try several kernels for a shape when it first comes, and keep the fastest."""
    mixed_gemm: bool = False
    """Multiply 4-bit and 8-bit weights with fp16 as they are, also for prompts and many rows, where ONNX Runtime else widens them
    first. Takes weights in groups of 32 (`export --int4 --for cuda --group-size 32`), which are laid out anew at opening."""
    cuda_graph: bool = False
    """Record the work of one step and play it back, so that the host does not start kernel after kernel. For one thread at a
    time; recorded anew for every answer and whenever its cache grows, and what was recorded keeps some memory of the GPU until
    the model is closed."""
    argmax: bool = True
    """Choose greedy tokens on the GPU, where nothing else reads the logits: only token ids come back."""
    memory_limit: float | None = None
    """Bytes that each graph may take on the GPU; None for no limit."""

    def __post_init__(self) -> None:
        try:
            checked("GPU option", _CHECKS, vars(self))
        except PromptError as error:
            raise ProviderError(str(error)) from error

    @property
    def session(self) -> dict[str, str]:
        """Entries of a session's configuration."""
        # In the arena, which grows by doubling, weights would take up to twice their size.
        found = {"session.use_device_allocator_for_initializers": "1"}
        return found | ({"ep.cuda.fpa_intb_gemm": "1"} if self.mixed_gemm else {})

    def cuda(self, gpu: int, cuda_graph: bool = False) -> dict[str, Any]:
        """Options of CUDAExecutionProvider for a graph."""
        found = on_gpu(gpu) | {"use_tf32": str(int(self.tf32))}
        found["arena_extend_strategy"] = "kSameAsRequested"  # not the next power of two
        if narrow_squares():
            found["enable_skip_layer_norm_strict_mode"] = "1"
        if self.tuning:
            found |= {"tunable_op_enable": "1", "tunable_op_tuning_enable": "1"}
        if cuda_graph:
            found["enable_cuda_graph"] = "1"
        if self.memory_limit is not None:
            found["gpu_mem_limit"] = str(int(self.memory_limit))
        return found


def _limit(name: str, value: Any) -> Any:
    if value is not None and (not is_number(value) or not 1 <= value < 2**63):
        raise PromptError(f"{name} is {value!r:.60}. Give a number of bytes above 0, or leave it out.")
    return value


_CHECKS: dict[str, Check] = {
    "tf32": flag,
    "tuning": flag,
    "mixed_gemm": flag,
    "cuda_graph": flag,
    "argmax": flag,
    "memory_limit": _limit,
}
assert list(_CHECKS) == [field.name for field in fields(GpuOptions)]
