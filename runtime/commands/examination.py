"""What is here, what works, and what to do about what does not."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...graphs.contract import graph_file
from ..devices.device import CPU, CUDA, TENSORRT
from ..devices.libraries import advice, clashing_packages, library_versions, missing_libraries, needed_versions
from ..devices.machine import BF16_UNITS, INT8_UNITS, Machine
from ..devices.placement import placement
from ..devices.sessions import open_sessions
from ..engine.opening import open_engine
from ..errors import Idefics2OnnxError, ProviderError
from ..folder import ModelFolder
from ..outside.requirement import Requirement, install, own_version, requirements
from .probe import Probe

Status = Literal["ok", "note", "wrong"]
_TOLERANCE = 1e-2
"""Largest relative difference from the CPU's numbers that another provider may show on the small model, which is fp16."""
_DEVICES = {CPU: "cpu", CUDA: "cuda", TENSORRT: "tensorrt"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    topic: str
    status: Status
    text: str

    def __str__(self) -> str:
        mark = {"ok": " ", "note": "*", "wrong": "!"}[self.status]
        return f"{mark} {self.topic:12} {self.text}"


@dataclass(frozen=True)
class Examination:
    """All findings, in order."""

    findings: list[Finding]

    @property
    def healthy(self) -> bool:
        """Whether everything that was asked for works."""
        return all(finding.status != "wrong" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        return {"healthy": self.healthy, "findings": [asdict(finding) for finding in self.findings]}


def examine(source: str | Path | None = None, device: str | None = None) -> Examination:
    """Look at this machine, ONNX Runtime and its providers, and, if they are named, a model folder and a device."""
    machine = Machine.here()
    findings = [*_hardware(machine), *_packages()]
    try:
        findings += [*_versions(), *_libraries(machine), *_providers(device or "")]
    except (ImportError, AttributeError) as error:  # half of a package is left where two were installed over each other
        advice = "Run: pip uninstall -y onnxruntime onnxruntime-gpu, then: pip install onnxruntime (or onnxruntime-gpu)"
        return Examination([*findings, Finding("onnxruntime", "wrong", f"cannot be imported ({error}). {advice}")])
    if source is not None or device is not None:
        findings += _placement(source, device or "auto")
    return Examination([*findings, *_advice(machine)])


def _versions() -> Iterator[Finding]:
    import onnxruntime as ort

    yield Finding("versions", "ok", f"idefics2-onnx {own_version()}, Python {platform.python_version()}")
    cuda = getattr(ort, "cuda_version", "")
    built = f"built for CUDA {cuda}" if cuda else "built for CPUs"
    yield Finding("versions", "ok", f"ONNX Runtime {ort.__version__}, {built}")
    if cuda:
        here = library_versions()
        listed = (f"{name} {here.get(name, 'not found')} ({needed} needed)" for name, needed in needed_versions().items())
        yield Finding("versions", "ok", ", ".join(listed))


def _hardware(machine: Machine) -> Iterator[Finding]:
    instructions = ", ".join(machine.instructions) or "no special instructions known"
    yield Finding("processor", "ok", f"{machine.processor or 'unknown'}, {machine.cores} cores, {instructions}")
    if machine.memory:
        free = f", {machine.free / 1e9:.1f} GB free" if machine.free is not None else ""
        yield Finding("memory", "ok", f"{machine.memory / 1e9:.1f} GB{free}")
    for index, gpu in enumerate(machine.gpus):
        sizes = f"{gpu.memory / 1e9:.1f} GB, {gpu.free / 1e9:.1f} GB free"
        yield Finding(f"cuda:{index}", "ok", f"{gpu.name}, {sizes}, driver {gpu.driver}")


def _packages() -> Iterator[Finding]:
    if clash := clashing_packages():
        yield Finding("packages", "wrong", clash)
    for each in requirements():
        yield _package(each, install(), needed=True)
    for extra in ("cpu", "gpu", "export"):
        for each in requirements(extra):
            # Few machines export, and one of the two ONNX Runtimes is enough.
            if each.found:
                yield _package(each, install(extra), needed=False)


def _package(requirement: Requirement, command: str, needed: bool) -> Finding:
    if requirement.fits:
        return Finding("package", "ok", str(requirement))
    status: Status = "wrong" if needed and not requirement.found else "note"
    return Finding("package", status, f"{requirement}. Run: {command}")


def _libraries(machine: Machine) -> Iterator[Finding]:
    """The shared libraries that the providers of this ONNX Runtime need."""
    import onnxruntime as ort

    available = ort.get_available_providers()
    if CUDA not in available:
        if machine.gpus:
            yield Finding(
                "cuda", "note",
                f"There is a GPU, but this ONNX Runtime has no {CUDA}. Run: pip uninstall -y onnxruntime, then: "
                "pip install 'onnxruntime-gpu[cuda,cudnn]'",
            )  # fmt: skip
        return
    for device, provider in (("cuda", CUDA), ("tensorrt", TENSORRT)):
        if provider in available and (missing := missing_libraries(provider)):
            status: Status = "wrong" if device == "cuda" and machine.gpus else "note"
            yield Finding(device, status, f"{', '.join(missing)} cannot be loaded. {advice(missing)}")


def _providers(asked: str) -> Iterator[Finding]:
    """The small model on each provider, beside the CPU; one that the device asked for names has to run it."""
    import onnxruntime as ort

    folder = ModelFolder.open(None)
    expected = _numbers(folder, "cpu")
    yield Finding("cpu", "ok", "runs the small model")
    for provider in ort.get_available_providers():
        device = _DEVICES.get(provider)
        if device in (None, "cpu") or missing_libraries(provider):
            continue
        try:
            found = _numbers(folder, device)
        except Idefics2OnnxError as error:
            yield Finding(device, "wrong" if device in asked else "note", f"does not run: {error}")
            continue
        difference = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
        good = difference <= _TOLERANCE
        text = f"runs the small model, {100 * difference:.2f} % from the CPU's numbers"
        yield Finding(device, "ok" if good else "wrong", text if good else f"{text}, where 1 % is expected: do not use it")


def _numbers(folder: ModelFolder, device: str) -> NDArray[np.float32]:
    """Logits of a small prompt with a picture."""
    return Probe.of(open_engine(folder, open_sessions(folder, device))).prompt_logits


def _placement(source: str | Path | None, device: str) -> Iterator[Finding]:
    """Which provider runs how many nodes of each graph of a folder."""
    try:
        folder = ModelFolder.open(source)
        sessions = open_sessions(folder, device)
    except Idefics2OnnxError as error:
        yield Finding("device" if isinstance(error, ProviderError) else "folder", "wrong", str(error))
        return
    yield Finding("folder", "ok", f"{folder.path}: {', '.join(f'{g} {p}' for g, p in folder.manifest.precision.items())}")
    for graph in folder.manifest.graphs:
        session = getattr(sessions, graph)
        first, nodes = session.get_providers()[0], placement(session)
        placed = ", ".join(f"{count} nodes on {name}" for name, count in nodes.items())
        yield Finding(graph_file(graph), "ok" if set(nodes) <= {first} else "note", placed or f"on {first}")


def _advice(machine: Machine) -> Iterator[Finding]:
    """What to export for a machine like this, by docs/benchmarks.md."""
    memory = machine.memory or 0
    here = all(each.found for each in requirements("openvino"))
    openvino = ", and run it with --device openvino" + ("" if here else f" ({install('openvino')})")
    images = openvino if BF16_UNITS & set(machine.instructions) else ""
    largest = max((gpu.memory for gpu in machine.gpus), default=0)
    if largest >= 22e9:
        text = "the GPU holds fp16: idefics2-onnx export --fp16"
    elif largest >= 8e9:
        text = "the GPU holds int4: idefics2-onnx export --int4 --for cuda"
    elif memory >= 20e9 and INT8_UNITS & set(machine.instructions):
        text = f"int4 with fast prompts, which takes up to 15 GB: idefics2-onnx export --int4 --fast-prompts{images}"
    elif memory >= 14e9 and INT8_UNITS & set(machine.instructions):
        text = f"int8, which takes up to 10.7 GB: idefics2-onnx export --int8{images}"
    elif memory >= 8e9:
        text = "int4, which takes 6.1 GB: idefics2-onnx export --int4"
    else:
        text = "too little memory for the 8B model, which takes 6 GB at least"
    yield Finding("advice", "note", f"For the 8B model here, {text}")
