"""ONNX Runtime sessions of a model folder, on the execution provider that was asked for and no other."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ...graphs.contract import GraphName, Manifest, TensorSpec, data_file, graph_file, interface
from ...graphs.errors import ModelFolderError
from ..errors import Idefics2OnnxError, ProviderError, first_line
from ..folder import ModelFolder
from ..parallel import leave, result_of
from . import tensorrt
from .device import CPU, CUDA, TENSORRT, Memory, Provider, gpu_of, provider_name
from .gpu_options import GpuOptions
from .graph_file import GraphFile
from .libraries import cuda_major
from .machine import INT8_UNITS, instructions
from .onnx_runtime import check_careful_sums, check_version
from .placement import RECORD_PLACEMENT, export_for_gpus, left_to_the_cpu, placement
from .providers import GraphProviders, candidates_for, check_providers, is_provider, without_cuda_graph

if TYPE_CHECKING:
    import onnxruntime as ort

SPINNING = "session.intra_op.allow_spinning"
SMALL = 16_000_000
"""Bytes of a graph's weights below which waking a second thread for each operator costs what it gains."""
_NO_ROOM = ("out of memory", "Failed to allocate")
"""What CUDA and ONNX Runtime's arena say."""
_log = logging.getLogger("idefics2_onnx")


@dataclass(frozen=True)
class Sessions:
    """The graphs, opened."""

    vision: ort.InferenceSession
    embedding: ort.InferenceSession
    decoder: ort.InferenceSession
    prompt: ort.InferenceSession
    """What reads prompts: a graph of its own where the folder has one, else the decoder."""
    memory: Memory
    """Where features, embeddings and the cache live."""
    providers: list[str]
    """What the sessions run on, by priority."""
    gpu: int = 0
    """The number of the GPU that "cuda" memory is on."""
    gpu_options: GpuOptions = field(default_factory=GpuOptions)
    """The options in effect; cuda_graph is False if recording failed."""
    images_per_call: int | None = None
    """Images that the vision graph takes at most."""
    passed_over: str = ""
    """Why "auto" did not take a better device."""
    cross: ort.InferenceSession | None = None
    """IDEFICS' keys and values of images."""


def open_sessions(
    folder: ModelFolder,
    device: str = "auto",
    providers: Sequence[Provider] | None = None,
    session_options: ort.SessionOptions | None = None,
    gpu_options: GpuOptions | None = None,
    spinning: bool = True,
) -> Sessions:
    """Open the graphs of a folder and check them against the contract.

    Args:
        device: "cpu", "cuda", "tensorrt" (images on TensorRT, the rest on CUDA), "openvino" (images on OpenVINO, the rest as on
            "cpu"), "cuda:1" and so on, or "auto": CUDA where it works, else the CPU. Single graphs may go elsewhere:
            "cuda,vision=tensorrt".
        providers: ONNX Runtime's own provider list instead of a device.
        gpu_options: for GPUs, but for `providers`, which bring their own.
        spinning: whether threads on the CPU wait busily. Where they sleep, a small graph runs on the caller's thread alone.

    Raises:
        ProviderError: a provider that was asked for is missing, was dropped by ONNX Runtime, or runs nothing of a graph; or
            ONNX Runtime is too old.
        ModelFolderError: a graph cannot be opened or has another interface than the contract.
    """
    import onnxruntime as ort  # here, so that importing the package does not load it

    check_version()
    if providers is not None and not (isinstance(providers, list | tuple) and providers and all(map(is_provider, providers))):
        raise ProviderError(f"providers is {providers!r:.200}. Give a list of names, or of pairs of a name and its options.")
    gpu_options = GpuOptions() if gpu_options is None else gpu_options
    if not isinstance(gpu_options, GpuOptions):
        raise ProviderError(f"gpu_options is {gpu_options!r:.60}. Give GpuOptions(...), or leave it out.")
    if not isinstance(session_options, ort.SessionOptions | None):
        raise ProviderError(f"session_options is {session_options!r:.60}. Give onnxruntime's SessionOptions, or leave it out.")
    if not isinstance(spinning, bool):
        raise ProviderError(f"spinning is {spinning!r:.60}. Give True or False.")
    if providers is None:
        *better, last = candidates_for(device, ort.get_available_providers(), folder.manifest, gpu_options)
    else:
        better, last = [], {graph: list(providers) for graph in folder.manifest.graphs}
    passed_over = ""
    for by_graph in better:
        try:
            return replace(_open_all(folder, by_graph, session_options, gpu_options, spinning), passed_over=passed_over)
        except ProviderError as error:
            passed_over = str(error)
    return replace(_open_all(folder, last, session_options, gpu_options, spinning), passed_over=passed_over)


def _open_all(
    folder: ModelFolder,
    by_graph: GraphProviders,
    session_options: ort.SessionOptions | None,
    options: GpuOptions,
    spinning: bool,
) -> Sessions:
    for wanted in by_graph.values():
        check_providers(wanted or [])

    loading: list[ort.SessionOptions] = []
    threads: list[threading.Thread] = []

    def opened(graph: GraphName) -> Any:
        threads.append(threading.current_thread())
        wanted = by_graph[graph]
        GraphFile.read(folder.file(graph_file(graph))).check(graph, folder.manifest.model)
        if wanted is None:
            return _open_vino(folder, graph)
        own = session_options or default_options(wanted)
        loading.append(own)
        if session_options is None and not spinning and folder.manifest.files[data_file(graph)].size < SMALL:
            own.intra_op_num_threads = 1
        if not spinning and not _has_entry(own, SPINNING):
            own.add_session_config_entry(SPINNING, "0")
        return _open(folder, graph, wanted, own, options)

    on_gpus = any(provider_name(provider) in (CUDA, TENSORRT) for wanted in by_graph.values() for provider in wanted or [])
    # ONNX Runtime prepares a graph's weights on one core. What a GPU has no room for is not loaded beside the rest.
    sessions: dict[GraphName, Any] = {}
    pool = ThreadPoolExecutor(1 if on_gpus else len(by_graph))
    try:
        found: list[Future[Any]] = [pool.submit(opened, graph) for graph in by_graph]
        for graph, one in zip(by_graph, found, strict=True):
            sessions[graph] = result_of(one)
    except BaseException as error:  # an error of one graph, or Ctrl-C, ends the opening of the others
        _cancel(loading, True)
        # Between two looks at that flag ONNX Runtime may fold weights for seconds, which nobody at a keyboard waits for.
        leaves = isinstance(error, KeyboardInterrupt) and session_options is None
        pool.shutdown(wait=not leaves, cancel_futures=True)
        if leaves:
            leave(threads)
        else:
            _cancel(loading, False)  # a caller's options may open other sessions
        raise
    pool.shutdown()
    recorded = sessions["decoder"].get_provider_options().get(CUDA, {}).get("enable_cuda_graph") == "1"
    on_tensorrt = TENSORRT in sessions["vision"].get_providers()
    sessions.setdefault("prompt", sessions["decoder"])
    return Sessions(
        **sessions,
        memory="cuda" if on_gpus else "cpu",
        providers=list(dict.fromkeys(name for session in sessions.values() for name in session.get_providers())),
        gpu=gpu_of(by_graph["decoder"] or []),
        gpu_options=replace(options, cuda_graph=recorded),
        images_per_call=tensorrt.IMAGES_PER_CALL if on_tensorrt else None,
    )


def _open(
    folder: ModelFolder,
    graph: GraphName,
    wanted: list[Provider],
    options: ort.SessionOptions,
    gpu_options: GpuOptions,
) -> ort.InferenceSession:
    import onnxruntime as ort

    names = [provider_name(provider) for provider in wanted]
    for name, value in _entries(folder.manifest, names, gpu_options).items():
        if not _has_entry(options, name):  # the caller's own
            options.add_session_config_entry(name, value)
    if names[0] == TENSORRT and isinstance(wanted[0], tuple):
        tensorrt.announce(graph, wanted[0][1])
    try:
        session = ort.InferenceSession(folder.file(graph_file(graph)), options, providers=wanted, enable_fallback=False)
    except Exception as error:  # onnxruntime's errors share no base but Exception
        reason = first_line(error)
        if (plain := without_cuda_graph(wanted)) and not _lacks_room(names, reason):
            _log.warning("%s cannot be recorded as a CUDA graph (%s); it runs step by step.", graph_file(graph), reason)
            return _open(folder, graph, plain, options, gpu_options)
        raise _why_it_failed(folder, graph, names, reason) from error
    _check_opened(folder, graph, names, session)
    return session


def _lacks_room(names: list[str], reason: str) -> bool:
    return names[0] in (CUDA, TENSORRT) and any(words in reason for words in _NO_ROOM)


def _why_it_failed(folder: ModelFolder, graph: GraphName, names: list[str], reason: str) -> Idefics2OnnxError:
    """What to tell of a graph that ONNX Runtime did not open on providers, by the reason that it gave."""
    import onnxruntime as ort

    if _lacks_room(names, reason):
        weights = folder.manifest.files[data_file(graph)].size if data_file(graph) in folder.manifest.files else 0
        return ProviderError(
            f"The GPU has no room for {graph_file(graph)}, whose weights take {weights / 1e9:.1f} GB ({reason:.300}). Close "
            "what else runs on it, export with --int4 --for cuda, or choose --device cpu."
        )
    if names[0] != CPU and CPU in ort.get_available_providers() and _is_about_provider(reason):
        return ProviderError(f"{names[0]} could not be started ({reason}). Check its libraries and driver.")
    path = folder.file(graph_file(graph))
    if "NOT_IMPLEMENTED" in reason:
        return ProviderError(
            f"ONNX Runtime {ort.__version__} lacks an operator of {path} ({reason:.300}). Run: pip install --upgrade onnxruntime "
            "(or onnxruntime-gpu)."
        )
    return ModelFolderError(f"ONNX Runtime cannot open {path} ({reason}). Export or download the model again.")


def _check_opened(folder: ModelFolder, graph: GraphName, names: list[str], session: ort.InferenceSession) -> None:
    """Raise ProviderError unless an opened graph runs where it should, and ModelFolderError if it is another graph."""
    missing = [name for name in names if name not in session.get_providers()]
    if missing:
        raise ProviderError(
            f"ONNX Runtime dropped {', '.join(missing)} and would have run {graph_file(graph)} on "
            f"{', '.join(session.get_providers())}, though its libraries (CUDA {cuda_major()}, cuDNN 9) are here. Check the "
            "GPU with nvidia-smi, run: pip install --force-reinstall 'onnxruntime-gpu[cuda,cudnn]', or choose --device cpu."
        )
    nodes = placement(session)
    if nodes and names[0] not in nodes:
        elsewhere = ", ".join(f"{count} on {name}" for name, count in nodes.items())
        mend = "Export with --attention standard" if names[0] == TENSORRT else "Choose --device cpu"
        raise ProviderError(f"{names[0]} takes none of {graph_file(graph)}'s nodes ({elsewhere}). {mend}.")
    if names[0] != CPU and (left := left_to_the_cpu(session)):
        raise ProviderError(
            f"{names[0]} has no kernels for {left} in {graph_file(graph)} ({folder.manifest.precision[graph]}), which would run "
            f"on the CPU. {export_for_gpus(folder.manifest)}, or choose --device cpu."
        )
    _check_interface(folder, graph, session)


def default_options(wanted: list[Provider]) -> ort.SessionOptions:
    """For a caller who gives none."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors; warnings there are about the graph optimiser, not the model
    if [provider_name(provider) for provider in wanted] == [CPU]:
        options.enable_mem_pattern = False  # a block of memory for each shape that comes, and no two prompts are alike
    return options


def _cancel(loading: Sequence[ort.SessionOptions], now: bool) -> None:
    """Have ONNX Runtime give up the sessions that it opens with these options, or not any more."""
    for options in loading:
        options.set_load_cancellation_flag(now)


def _entries(manifest: Manifest, providers: list[str], gpu_options: GpuOptions) -> dict[str, str]:
    """What a session's configuration gets, beside what the caller has put there."""
    found = {RECORD_PLACEMENT: "1"} | (gpu_options.session if providers != [CPU] else {})
    if manifest.quantisation and not INT8_UNITS & set(instructions()):
        # Processors without 8-bit units add products of 8-bit numbers in 16 bits, which overflow unless the weights are made
        # unsigned. Those with them would only be slowed down: prompts to two fifths, opening to a third of the speed.
        if manifest.quantisation.get("target") != "cuda":  # those have other products
            check_careful_sums()
        found["session.x64quantprecision"] = "1"
    return found


def _has_entry(options: ort.SessionOptions, name: str) -> bool:
    try:
        return bool(options.get_session_config_entry(name))
    except RuntimeError:  # "does not have"
        return False


def _open_vino(folder: ModelFolder, graph: GraphName) -> Any:
    from .openvino_session import OpenVinoSession

    if folder.manifest.quantisation and folder.manifest.dtype == "fp32" and not INT8_UNITS & set(instructions()):
        raise ProviderError(
            f"On processors without 8-bit units ({', '.join(instructions())}) OpenVINO's sums of 8-bit products overflow, and "
            f"{graph_file(graph)} would be a fifth off. Choose --device cpu, or export with --fp16."
        )
    session = OpenVinoSession(folder.file(graph_file(graph)))
    _check_interface(folder, graph, session)
    return session


def _check_interface(folder: ModelFolder, graph: GraphName, session: Any) -> None:
    manifest = folder.manifest
    found = ([TensorSpec(t.name, t.type, tuple(t.shape)) for t in side] for side in (session.get_inputs(), session.get_outputs()))
    interface(graph, manifest.dtype, manifest.model).check(graph, *found)


def _is_about_provider(reason: str) -> bool:
    return any(word in reason for word in ("CUDA", "cuda", "cuDNN", "TensorRT", "Tensorrt", "provider"))
