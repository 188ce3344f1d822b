"""Which execution providers run a graph on a device, and whether they can work here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...graphs.contract import GraphName, Manifest
from ..checks import is_one_of
from ..errors import ProviderError
from . import tensorrt
from .device import CPU, CUDA, TENSORRT, Device, Provider, gpu_of, graph_devices, provider_name
from .gpu_options import GpuOptions
from .libraries import advice, clashing_packages, cuda_major, gpu_count, missing_libraries, too_old

GraphProviders = dict[GraphName, list[Provider] | None]
"""The providers of each graph; None for OpenVINO."""


def candidates_for(device: str, available: Sequence[str], manifest: Manifest, options: GpuOptions) -> list[GraphProviders]:
    """Where the graphs might run, best first."""
    needs_cuda, names = manifest.dtype == "bf16", [device]
    if is_one_of(device, ("auto",)):
        names = ["cuda"] if CUDA in available else []
        if not names and "onnxruntime-gpu" in (clash := clashing_packages()):
            raise ProviderError(f"{clash}, or choose --device cpu.")
        if needs_cuda and not names:
            raise ProviderError(
                "This model folder is bf16, which ONNX Runtime runs on CUDA only, and this machine's ONNX Runtime has no CUDA. "
                "Install onnxruntime-gpu, or export with --fp16 or --fp32."
            )
        names += [] if needs_cuda else ["cpu"]
    possible = [graph_devices(name) for name in names]
    if needs_cuda and any(found["decoder"].memory == "cpu" for found in possible):
        raise ProviderError(
            "This model folder is bf16, which ONNX Runtime runs on CUDA only. Use --device cuda, or export with --fp16 or --fp32."
        )
    return [{graph: _providers(graph, found[graph], manifest, options) for graph in manifest.graphs} for found in possible]


def _providers(graph: GraphName, device: Device, manifest: Manifest, options: GpuOptions) -> list[Provider] | None:
    """ONNX Runtime's for a graph on a device, by priority."""
    if device.kind == "openvino":
        return None
    if device.kind == "cpu":
        return [CPU]
    cuda: list[Provider] = [(CUDA, options.cuda(device.index, options.cuda_graph and graph == "decoder")), CPU]
    if device.kind == "tensorrt":
        return [(TENSORRT, tensorrt.options(graph, manifest, device.index, options.memory_limit)), *cuda]
    return cuda


def is_provider(one: Any) -> bool:
    """A name, or a name and its options, with a GPU's number where there is one."""
    if isinstance(one, str):
        return True
    if not (isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str) and isinstance(one[1], dict)):
        return False
    return one[0] not in (CUDA, TENSORRT) or str(one[1].get("device_id", 0)).isdecimal()


def check_providers(wanted: list[Provider]) -> None:
    """ProviderError for one that this ONNX Runtime does not have, or that lacks libraries."""
    import onnxruntime as ort

    names = [provider_name(provider) for provider in wanted]
    available = ort.get_available_providers()
    for name in names:
        if name not in available:
            install = "run: pip uninstall -y onnxruntime, then: pip install 'onnxruntime-gpu[cuda,cudnn]'"
            raise ProviderError(
                f"This ONNX Runtime {ort.__version__} has no {name}, only {', '.join(available)}. "
                + (clashing_packages() or f"For it, {install}" if name in (CUDA, TENSORRT) else "Check the name.")
            )
        if missing := missing_libraries(name):
            raise ProviderError(
                f"{name} cannot run here: {', '.join(missing)} cannot be loaded (this ONNX Runtime is built for "
                f"CUDA {cuda_major()}). {advice(missing)}, or choose --device cpu."
            )
        if reason := too_old(name):
            raise ProviderError(f"{name} cannot run here: {reason}, or choose --device cpu.")
        if name in (CUDA, TENSORRT) and (count := gpu_count()) is not None and gpu_of(wanted) >= count:
            seen = f"{count} GPU{'s' if count > 1 else ''}" if count else "no GPU"
            raise ProviderError(f"There is no GPU number {gpu_of(wanted)}: CUDA sees {seen}. Choose another device.")


def without_cuda_graph(providers: list[Provider]) -> list[Provider]:
    """The list without that option; empty if it is not in there."""
    plain: list[Provider] = [
        provider
        if isinstance(provider, str)
        else (provider[0], {k: v for k, v in provider[1].items() if k != "enable_cuda_graph"})
        for provider in providers
    ]
    return plain if plain != providers else []
