"""Checkpoint → model folder: the steps of an export, in order."""

from __future__ import annotations

import importlib.metadata
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from .. import __version__
from ..graphs.contract import AttentionFlavour, Dtype, FileEntry, Manifest, Precision
from ..runtime.folder import MODEL_CARD
from .bundle import Workplace, code_digest, file_entry, fingerprint, new_folder, write_manifest
from .errors import CheckpointError, ParityError
from .heap import set_heap
from .listener import Listener
from .model_card import write_model_card
from .opening import check_files, open_folder
from .processor_files import write_processor_files
from .processor_source import processor_source
from .quantisation.calibration import CalibrationSet
from .quantisation.quantise import Quantisation, folder_bytes, joins_projections, quantise
from .quantisation.smoothing import factors_file, read_factors, smoothed, smoothing_factors, write_factors
from .source.architecture import choose_attention
from .source.checkpoint import DEFAULT_CHECKPOINT
from .source.source_model import SourceModel
from .threads import help_this_thread_alone
from .trace import OPERATORS, store_narrow, trace_graphs
from .transformers_js import check_layout, sessions, to_transformers_js
from .verification.difference import Verification
from .verification.verify import verify_in_subprocess
from .weights import graph_bytes, write_graph

Verify = Literal["auto", "always", "never"]
Layout = Literal["idefics2-onnx", "transformers.js"]
_TOOLS = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class ExportReport:
    """What an export did."""

    folder: Path
    manifest: Manifest
    verification: Verification | None
    """None with verify="never", and where the comparison could not be run."""


def export_model(
    source: str | Path = DEFAULT_CHECKPOINT,
    folder: str | Path | None = None,
    precision: Precision | Quantisation = "fp16",
    *,
    attention: AttentionFlavour | None = None,
    verify: Verify = "auto",
    revision: str | None = None,
    adapter: str | Path | None = None,
    calibrate: str | Path | None = None,
    keep: bool = False,
    layout: Layout = "idefics2-onnx",
    listener: Listener | None = None,
) -> ExportReport:
    """Export an Idefics2 or IDEFICS checkpoint to a model folder.

    Args:
        source: folder with config.json and safetensors weights, or a hub id.
        folder: the model folder to make; default ``./<model>-<precision>``.
        precision: of the weights. In fp16 the connector sums in fp32; bf16 runs on CUDA only; "int8" and "int4" are made
            for CPUs, and a Quantisation says more.
        attention: "fused" (ONNX Runtime's operators; the default where head_dim allows) or "standard" (ai.onnx only).
        verify: compare the folder with the checkpoint afterwards and open it on every device that is there: "auto" as a whole
            where the memory is free, else layer by layer. "never" does neither; the files beside the graphs are always checked.
        revision: commit, branch or tag of a hub id.
        calibrate: folder of pictures and prompts.txt to measure activations on, for int8 and int4; default: built-in ones.
        adapter: folder of a LoRA adapter in PEFT's layout, to merge into the weights.
        keep: keep a folder that fails its comparison, as ``<folder>-differs``.
        layout: "idefics2-onnx", or "transformers.js" for that library's names and inputs, once the folder is compared and opened.

    Raises:
        CheckpointError: the checkpoint cannot be exported, or not to there, or the folder does not open; nothing is left under
            `folder`.
        ParityError: the folder is not what the checkpoint is; nothing is left under `folder` either.
    """
    set_heap()
    help_this_thread_alone()
    listener = listener or Listener()
    model = SourceModel.open(source, revision, Path(adapter) if adapter is not None else None)
    checkpoint = model.checkpoint
    if model.remark:
        listener.say(model.remark)
    flavour, remark = choose_attention(model.sizes.head_dim, attention)
    if remark:
        listener.say(remark)
    quantisation, dtype = _plan(precision)
    if layout == "transformers.js":
        check_layout(model.family, dtype, quantisation is not None and quantisation.fast_prompts)
    name = quantisation.precision if quantisation else dtype
    target = Path(folder or f"{checkpoint.source.rsplit('/', 1)[-1]}-{name}")
    spoilt = Path(f"{target.resolve()}-differs") if keep else None
    if spoilt is not None and os.path.lexists(spoilt):
        raise CheckpointError(f"{spoilt} already exists, where --keep puts a folder that fails. Remove it first.")
    given = {"checkpoint": checkpoint.folder, "adapter": model.adapter, "calibrate": calibrate}
    before = {name: fingerprint(Path(folder) if folder is not None else None) for name, folder in given.items()}
    plan: dict[str, Any] = before | {"code": code_digest(), "tools": _versions(), "dtype": dtype, "attention": flavour}
    plan |= {"quantisation": asdict(quantisation) if quantisation else None, "layout": layout}
    with new_folder(target, folder_bytes(model.shapes, dtype, quantisation), plan, listener.say) as workplace:
        if workplace.resumed:
            listener.say("Going on with an export that was interrupted.")
        partial = workplace.folder
        with processor_source(checkpoint, model.config, model.adapter) as (processor, remark):
            if remark:
                listener.say(remark)
            write_processor_files(processor, model.config, partial)
        check_files(partial, checkpoint, model.sizes)
        models = _smoothed_models(model, quantisation, flavour, partial, calibrate, listener) if quantisation else {}
        files = _write_graphs(model, models, quantisation, dtype, flavour, workplace, listener)
        _check_unchanged(given, before)
        # A folder among them is of a run that was stopped as it changed the layout.
        left = sorted(path for path in partial.iterdir() if path.is_file() and path.name not in (*files, MODEL_CARD))
        files |= {path.name: file_entry(path) for path in left}
        manifest = Manifest(
            architecture=model.family.name,
            precision=quantisation.precisions(model.family.graph_names)
            if quantisation
            else dict.fromkeys(model.family.graph_names, dtype),
            dtype=dtype,
            quantisation=asdict(quantisation) if quantisation else None,
            attention=flavour,
            opset=OPERATORS[flavour].opset,
            source=checkpoint.source,
            revision=checkpoint.revision,
            tools=_versions(),
            model=model.sizes,
            files=files,
        )
        write_model_card(partial, manifest, checkpoint.folder)
        write_manifest(partial, manifest)
        verification = None
        if verify != "never":
            verification = _compare(partial, model, verify, spoilt, listener)
            for line in open_folder(partial):
                listener.say(line)
        if layout == "transformers.js":
            to_transformers_js(partial, manifest)
            write_model_card(partial, manifest, checkpoint.folder, sessions(manifest))
    return ExportReport(target, manifest, verification)


def _smoothed_models(
    model: SourceModel,
    quantisation: Quantisation,
    flavour: AttentionFlavour,
    folder: Path,
    calibrate: str | Path | None,
    listener: Listener,
) -> dict[Quantisation, SourceModel]:
    """The model with loud channels evened out, for each quantisation of a folder, which keeps the factors."""
    shown = CalibrationSet.load(Path(calibrate) if calibrate else None, folder / "tokenizer.json", model.sizes)
    wanted = [quantisation, quantisation.of_prompts] if quantisation.fast_prompts else [quantisation]
    if missing := [each for each in wanted if not (folder / factors_file(each)).exists()]:
        for each, factors in smoothing_factors(model, missing, flavour, shown, listener).items():
            write_factors(folder, each, factors)
    return {each: smoothed(model, read_factors(folder, each, model)) for each in wanted}


def _write_graphs(
    model: SourceModel,
    models: dict[Quantisation, SourceModel],
    quantisation: Quantisation | None,
    dtype: Dtype,
    flavour: AttentionFlavour,
    workplace: Workplace,
    listener: Listener,
) -> dict[str, FileEntry]:
    """Trace each graph and stream its weights to disk; what the manifest says of the files."""
    files: dict[str, FileEntry] = {}
    for traced in trace_graphs(model.config, model.sizes, dtype, flavour, joins_projections(flavour, quantisation)):
        versions = [(traced, quantisation)]
        if quantisation and quantisation.fast_prompts and traced.name == "decoder":
            versions.append((traced.copy("prompt"), quantisation.of_prompts))
        for version, wanted in versions:
            source = models[wanted] if wanted else model
            graph = store_narrow(quantise(version, wanted, source) if wanted else version, dtype)
            listener.start(graph.name, graph_bytes(graph))
            files |= write_graph(graph, source, workplace, listener.advance)
    return files


def _check_unchanged(given: dict[str, Any], before: dict[str, Any]) -> None:
    """Raise CheckpointError if files changed while they were read: the folder would be of two checkpoints."""
    for kind, read in given.items():
        if read is not None and fingerprint(Path(read)) != before[kind]:
            raise CheckpointError(f"The files in {read} changed while they were read. Export again when they stand still.")


def _compare(folder: Path, model: SourceModel, verify: Verify, spoilt: Path | None, listener: Listener) -> Verification | None:
    """Compare a folder with its checkpoint; None, and a line, if that could not be done and `verify` is "auto"."""
    try:
        whole = True if verify == "always" else None
        verification = verify_in_subprocess(folder, model.checkpoint.folder, whole, model.adapter)
    except CheckpointError as error:
        if verify == "always":
            raise
        listener.say(f"Not compared, but kept: {error}")  # hours of export are not thrown away for want of memory
        return None
    for line in verification.lines():
        listener.say(line)
    _raise_on_faults(verification, folder, spoilt)
    return verification


def _raise_on_faults(verification: Verification, folder: Path, spoilt: Path | None) -> None:
    """Raise ParityError for a folder that is not its checkpoint, which goes to `spoilt` if that is named."""
    try:
        verification.raise_past_floor()
    except ParityError as error:
        if spoilt is None:
            raise ParityError(f"{error} Nothing was kept; --keep keeps the folder for a closer look.") from error
        folder.rename(spoilt)
        raise ParityError(f"{error} The folder was kept as {spoilt}.") from error


def _plan(precision: Precision | Quantisation) -> tuple[Quantisation | None, Dtype]:
    """How to quantise, if at all, and what the graphs compute with."""
    if precision == "int8" or precision == "int4":
        precision = Quantisation(precision)
    return (precision, precision.dtype) if isinstance(precision, Quantisation) else (None, precision)


def _versions() -> dict[str, str]:
    found = {"idefics2-onnx": __version__}
    for name in _TOOLS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
