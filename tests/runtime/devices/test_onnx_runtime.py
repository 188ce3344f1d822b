"""Versions of ONNX Runtime."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import onnxruntime as ort
import pytest
from idefics2_onnx.runtime.devices import onnx_runtime, sessions
from idefics2_onnx.runtime.devices.onnx_runtime import NEWEST_TESTED, OLDEST, check_version
from idefics2_onnx.runtime.errors import ProviderError
from idefics2_onnx.runtime.model import Idefics2

ORT = tuple(map(int, ort.__version__.split(".")[:2]))


@pytest.fixture(autouse=True)
def forgotten():
    check_version.cache_clear()
    yield
    check_version.cache_clear()


@pytest.mark.parametrize("version", ["1.23.2", "1.24.4", "1.9.0", "0.5.0"])
def test_one_that_is_too_old(version, monkeypatch):
    monkeypatch.setattr(ort, "__version__", version)
    with pytest.raises(ProviderError, match=rf"ONNX Runtime {version} is older than 1.25.*Run: pip install --upgrade"):
        Idefics2.from_pretrained()


def test_one_that_is_newer_is_warned_of_once(monkeypatch, capsys):
    newer = f"{NEWEST_TESTED[0]}.{NEWEST_TESTED[1] + 1}.0.dev20270101"
    monkeypatch.setattr(ort, "__version__", newer)
    for _ in range(2):
        Idefics2.from_pretrained()
    assert capsys.readouterr().err.count(f"ONNX Runtime {newer} is newer than") == 1


@pytest.mark.parametrize("version", ["1.25.0", "1.31.1", "1.32.0", "1.32.7+cu130", "unknown"])
def test_others_pass_in_silence(version, monkeypatch, capsys):
    monkeypatch.setattr(ort, "__version__", version)
    check_version()
    assert not capsys.readouterr().err


def test_the_package_asks_for_the_oldest():
    extras = tomllib.loads(Path("pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["cpu"] == [f"onnxruntime>={onnx_runtime._dotted(OLDEST)}"]
    assert "<" not in extras["gpu"][0]


@pytest.mark.parametrize(("version", "opens"), [("1.25.0", False), ("1.29.3", False), ("1.30.0", True)])
def test_integers_on_processors_without_their_units(version, opens, monkeypatch, exported):
    """Older versions would end the process."""
    monkeypatch.setattr(ort, "__version__", version)
    monkeypatch.setattr(sessions, "instructions", lambda: ["AVX2"])
    if opens and ORT >= (1, 30):
        assert Idefics2.from_pretrained(exported("plain", "int8"), "cpu").providers
    elif not opens:
        with pytest.raises(ProviderError, match=rf"no 8-bit units, and ONNX Runtime {version} cannot .*; 1.30 can. Run: "):
            Idefics2.from_pretrained(exported("plain", "int8"), "cpu")
        assert Idefics2.from_pretrained(exported("plain"), "cpu").providers
        monkeypatch.setattr(sessions, "instructions", lambda: ["AVX512-VNNI"])
        assert Idefics2.from_pretrained(exported("plain", "int8"), "cpu").providers


def test_onnx_runtime_counts_nothing(tmp_path):
    """What it keeps of its uses lies below the home folder."""
    clean = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    work = "from idefics2_onnx import Idefics2; Idefics2.from_pretrained(device='cpu').generate('Hi', max_new_tokens=1)"
    subprocess.run([sys.executable, "-c", work], env=clean | {"HOME": str(tmp_path)}, check=True)
    assert not list(tmp_path.rglob("*onnxruntime*"))
