"""ONNX Runtime sessions of a model folder, on the execution provider that was asked for and no other."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..graphs.contract import GraphName, TensorSpec, graph_file, interface
from .device import CPU, CUDA, TENSORRT, Device, Provider, card_of, provider_name
from .errors import ModelFolderError, ProviderError
from .folder import ModelFolder
from .libraries import advice, clashing_packages, cuda_major, missing_libraries
from .machine import instructions

if TYPE_CHECKING:
    import onnxruntime as ort


@dataclass(frozen=True)
class Sessions:
    """The graphs, opened."""

    vision: ort.InferenceSession
    embedding: ort.InferenceSession
    decoder: ort.InferenceSession
    prompt: ort.InferenceSession
    """What reads prompts: a graph of its own where the folder has one, else the decoder."""
    memory: Literal["cpu", "cuda"]
    """Where features, embeddings and the cache live."""
    providers: list[str]
    """What the sessions run on, by priority."""
    card: int = 0
    """The number of the card that "cuda" memory is on."""
    passed_over: str = ""
    """Why "auto" did not take a better device."""


def open_sessions(
    folder: ModelFolder,
    device: str = "auto",
    providers: Sequence[Provider] | None = None,
    session_options: ort.SessionOptions | None = None,
) -> Sessions:
    """Open the graphs of a folder and check them against the contract.

    Args:
        device: "cpu", "cuda", "tensorrt", "openvino" (images on OpenVINO, the rest as on "cpu"), "cuda:1" and so on, or "auto":
            CUDA where it works, else the CPU.
        providers: ONNX Runtime's own provider list instead of a device.

    Raises:
        ProviderError: a provider that was asked for is missing or was dropped by ONNX Runtime.
        ModelFolderError: a graph cannot be opened or has another interface than the contract.
    """
    import onnxruntime as ort  # here, so that importing the package does not load it

    if isinstance(providers, str):
        raise ProviderError(f"providers is the string {providers!r}. Give a list of provider names.")
    wished = Device.parse(device)
    if providers is None:
        candidates = _candidates(wished, ort.get_available_providers(), folder.manifest.dtype == "bf16")
    else:
        candidates = [list(providers)]
    passed_over = ""
    for last, wanted in enumerate(candidates, 1 - len(candidates)):

        def opened(graph: GraphName, wanted: list[Provider] = wanted) -> Any:
            if providers is None and (wished.kind, graph) == ("openvino", "vision"):
                return _open_vino(folder, graph)
            return _open(folder, graph, wanted, session_options)

        try:
            _check_providers(wanted)
            # ONNX Runtime prepares a graph's weights on one core. What a card has no room for is not loaded beside the rest.
            with ThreadPoolExecutor(len(folder.manifest.graphs) if {*map(provider_name, wanted)} == {CPU} else 1) as pool:
                found = [pool.submit(opened, graph) for graph in folder.manifest.graphs]
                try:
                    sessions = {graph: one.result() for graph, one in zip(folder.manifest.graphs, found, strict=True)}
                finally:
                    pool.shutdown(cancel_futures=True)
        except ProviderError as error:
            if not last:
                raise
            passed_over = str(error)
            continue
        names = list(dict.fromkeys([*sessions["vision"].get_providers(), *sessions["decoder"].get_providers()]))
        sessions.setdefault("prompt", sessions["decoder"])
        memory: Literal["cpu", "cuda"] = "cuda" if CUDA in names or TENSORRT in names else "cpu"
        return Sessions(**sessions, memory=memory, providers=names, card=card_of(wanted), passed_over=passed_over)
    raise AssertionError("every candidate either opens or raises")


def _candidates(device: Device, available: Sequence[str], needs_cuda: bool) -> list[list[Provider]]:
    """Provider lists to try, best first."""
    if device.kind in ("cpu", "openvino") and needs_cuda:
        raise ProviderError(
            "This model folder is bf16, which ONNX Runtime runs on CUDA only. Use --device cuda, or export with --fp16 or --fp32."
        )
    if device.kind != "auto":
        return [device.providers]
    lists = [Device("cuda").providers] if CUDA in available else []
    if needs_cuda and not lists:
        raise ProviderError(
            "This model folder is bf16, which ONNX Runtime runs on CUDA only, and this machine's ONNX Runtime has no CUDA. "
            "Install onnxruntime-gpu, or export with --fp16 or --fp32."
        )
    return lists if needs_cuda else [*lists, [CPU]]


def _check_providers(wanted: Sequence[Provider]) -> None:
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


def _open(
    folder: ModelFolder, graph: GraphName, wanted: Sequence[Provider], session_options: ort.SessionOptions | None
) -> ort.InferenceSession:
    import onnxruntime as ort

    names = [provider_name(provider) for provider in wanted]
    options = session_options
    if options is None:
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors; warnings there are about the graph optimiser, not the model
        if folder.manifest.quantisation and "AMX" not in instructions():
            # Processors without VNNI add products of 8-bit numbers in 16 bits, which overflow unless the weights are made
            # unsigned. ONNX Runtime knows the ones to leave alone, but for those with AMX, which it would slow down.
            options.add_session_config_entry("session.x64quantprecision", "1")
    path = folder.file(graph_file(graph))
    try:
        session = ort.InferenceSession(path, options, providers=list(wanted))
    except Exception as error:  # onnxruntime's errors share no base but Exception
        reason = str(error).strip().splitlines()[0]
        if names[0] != CPU and CPU in ort.get_available_providers() and _is_about_provider(reason):
            raise ProviderError(f"{names[0]} could not be started ({reason}). Check its libraries and driver.") from error
        raise ModelFolderError(f"ONNX Runtime cannot open {path} ({reason}). Export or download the model again.") from error
    missing = [name for name in names if name not in session.get_providers()]
    if missing:
        raise ProviderError(
            f"ONNX Runtime dropped {', '.join(missing)} and would have run {graph_file(graph)} on "
            f"{', '.join(session.get_providers())}, though its libraries (CUDA {cuda_major()}, cuDNN 9) are here. Check the "
            "driver's version and the card with nvidia-smi, or choose --device cpu."
        )
    _check_interface(folder, graph, session)
    return session


def _open_vino(folder: ModelFolder, graph: GraphName) -> Any:
    from .openvino_session import OpenVinoSession

    session = OpenVinoSession(folder.file(graph_file(graph)))
    _check_interface(folder, graph, session)
    return session


def _check_interface(folder: ModelFolder, graph: GraphName, session: Any) -> None:
    manifest = folder.manifest
    found = ([TensorSpec(t.name, t.type, tuple(t.shape)) for t in side] for side in (session.get_inputs(), session.get_outputs()))
    interface(graph, manifest.dtype, manifest.model).check(graph, *found)


def _is_about_provider(reason: str) -> bool:
    return any(word in reason for word in ("CUDA", "cuda", "cuDNN", "TensorRT", "Tensorrt", "provider"))
