"""What tests have in common.

torch is imported where it is used: the process that hands tests out to others reads this file, too, and needs none of it.
"""

from __future__ import annotations

import gc
import io
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

if TYPE_CHECKING:
    from parity import Reference

Keyed = Callable[..., Path]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with Ctrl-C ignored
gc.disable()  # until all is imported: searching what stays for garbage takes a fifth of an import of torch


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """Skip what an old ONNX Runtime cannot do on this processor, and says so."""
    from idefics2_onnx.runtime.errors import ProviderError

    try:
        yield
    except ProviderError as error:
        if "This processor has no 8-bit units" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that the test processes have in common. What is made there is made under a lock, and never changed."""
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def traced_once(shared: Path) -> Iterator[None]:
    """Trace each kind of graph once for all processes."""
    from shared_traces import share_traces

    with pytest.MonkeyPatch.context() as patch:
        share_traces(shared, patch)
        yield


@pytest.fixture(scope="session", autouse=True)
def without_spinning() -> Iterator[None]:
    """Let ONNX Runtime's threads sleep between the small runs of tests, half of whose time they would spin away."""
    import onnxruntime as ort
    from idefics2_onnx.runtime.devices import sessions

    init = ort.InferenceSession.__init__

    def quiet(self: Any, model: Any, sess_options: Any = None, *rest: Any, **named: Any) -> None:
        options = sess_options or ort.SessionOptions()
        if not sessions._has_entry(options, sessions.SPINNING):
            options.add_session_config_entry(sessions.SPINNING, "0")
        init(self, model, options, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ort.InferenceSession, "__init__", quiet)
        yield


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a small model's checkpoint, written once."""
    from idefics2_onnx.demo import random_idefics, random_model
    from small_idefics import SMALL_IDEFICS
    from small_models import SMALL_MODELS

    folders: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in folders:
            folder = tmp_path_factory.mktemp("checkpoints") / name
            if name in SMALL_IDEFICS:
                old = SMALL_IDEFICS[name]
                random_idefics.write_checkpoint(folder, old.config, dtype=old.dtype, shard_size=old.shard_size)
            else:
                small = SMALL_MODELS[name]
                random_model.write_checkpoint(
                    folder, small.config, image_options=small.image_options, dtype=small.dtype, shard_size=small.shard_size
                )
            folders[name] = folder
        return folders[name]

    return make


@pytest.fixture
def copy(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A checkpoint that a test may damage."""
    return Path(shutil.copytree(checkpoint("plain"), tmp_path / "checkpoint"))


@pytest.fixture(scope="session")
def exported(checkpoint: Callable[[str], Path], shared: Path) -> Keyed:
    """Model folder of a small model, exported once per precision and flavour, unverified."""
    from idefics2_onnx.export import export_model
    from small_idefics import SMALL_IDEFICS
    from small_models import SMALL_MODELS

    def can_be_fused(name: str) -> bool:
        if name in SMALL_IDEFICS:
            return "fused" in SMALL_IDEFICS[name].flavours
        return SMALL_MODELS[name].config.text_config.head_dim % 16 == 0

    def make(name: str, precision: str = "fp32", attention: str = "fused") -> Path:
        target = shared / "-".join((name, precision, attention))
        with FileLock(f"{target}.lock"):
            if not target.exists():
                wanted = attention if can_be_fused(name) else None
                export_model(checkpoint(name), target, precision, attention=wanted, verify="never")  # type: ignore[arg-type]
        return target

    return make


@pytest.fixture(scope="session")
def model(exported: Keyed) -> Callable[..., Any]:
    """An opened small model, of the class that its folder holds."""
    from idefics2_onnx import load

    models: dict[Path, Any] = {}

    def make(*key: str) -> Any:
        folder = exported(*key)
        return models.setdefault(folder, models.get(folder) or load(folder))

    return make


@pytest.fixture(scope="session")
def reference(checkpoint: Callable[[str], Path]) -> Callable[[str], Reference]:
    """transformers' model and processor of a small model."""
    from parity import Reference

    references: dict[str, Reference] = {}

    def make(name: str) -> Reference:
        if name not in references:
            references[name] = Reference.load(checkpoint(name))
        return references[name]

    return make


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """A GPU that is made up."""
    from made_up_gpu import made_up_gpu

    return made_up_gpu(monkeypatch, tmp_path)


@pytest.fixture
def compared_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have exports compared in this process instead of in one of their own, which imports torch again, and not opened apart."""
    from idefics2_onnx.export.verification import __main__ as comparison

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        with redirect_stdout(io.StringIO()) as said:
            comparison.main(*command[command.index("-m") + 2 :])
        return SimpleNamespace(returncode=0, stdout=said.getvalue(), stderr="")

    monkeypatch.setattr("idefics2_onnx.export.verification.verify.subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr("idefics2_onnx.export.opening._devices", list)
