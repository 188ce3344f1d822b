"""Packages that are missing, broken, or of other versions than the package's own metadata names."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner
from idefics2_onnx.cli import main
from idefics2_onnx.runtime.commands import examination as doctor
from idefics2_onnx.runtime.outside.requirement import explain, install, requirements, unfit

EXPORT = {"torch", "transformers", "onnx", "onnxscript", "onnx-ir", "psutil", "filelock"}


@pytest.fixture
def installed(monkeypatch):
    """Let packages have other versions; None takes one away."""
    versions, real = {}, importlib.metadata.version

    def version(name):
        if versions.get(name, "") is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions.get(name) or real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    return versions


def test_the_ranges_are_those_of_the_metadata():
    assert {each.name for each in requirements("export")} == EXPORT
    assert {each.name for each in requirements()} == {"numpy", "pillow", "tokenizers", "huggingface_hub", "jinja2", "click"}
    assert [each.name for each in requirements("cpu")] == ["onnxruntime"]
    needed = {each.name: each.needed for each in requirements("export")}
    assert needed["transformers"] == ">=5.23,<5.25"
    assert unfit("cpu", "export") == []  # with versions like 2.13.0+cpu


@pytest.mark.parametrize(
    ("name", "version", "fits"),
    [
        ("transformers", "4.57.1", False),
        ("transformers", "5.24.0", True),
        ("transformers", "5.25.0", False),
        ("transformers", "5.23.1.dev0", True),
        ("torch", "2.13.1+cu130", True),
        ("torch", "2.14.0a0", False),
        ("onnxscript", "0.6.0", False),
        ("onnx-ir", "not a version", False),
    ],
)
def test_which_versions_fit(name, version, fits, installed):
    installed[name] = version
    assert [each.name for each in unfit("export")] == ([] if fits else [name])


def test_the_doctor_lists_them(installed):
    installed |= {"transformers": "4.57.1", "tokenizers": "0.20.0", "onnx": None, "pillow": None}
    findings = [finding for finding in doctor.examine().findings if finding.topic == "package"]
    found = {finding.text.split()[0]: finding for finding in findings}
    assert found["transformers"].status == "note"
    assert found["transformers"].text == f"transformers 4.57.1 (>=5.23,<5.25 needed). Run: {install('export')}"
    assert found["tokenizers"].status == "note"
    assert found["pillow"].status == "wrong"
    assert found["numpy"].status == "ok"
    assert "onnx" not in found


def test_an_app_without_metadata(monkeypatch):
    def requires(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    assert requirements("export") == []
    assert explain(AttributeError("x"), "export") == ""
    assert CliRunner().invoke(main, ["doctor"], catch_exceptions=False).exit_code == 0


def test_exporting_with_another_version_says_so(installed, tmp_path):
    installed["transformers"] = "5.30.0"
    result = CliRunner().invoke(main, ["export", str(tmp_path)], catch_exceptions=False)
    assert "Not tested with transformers 5.30.0 (>=5.23,<5.25 needed)" in result.stderr
    assert "neither model.safetensors nor" in result.stderr


def test_a_failure_with_another_version_names_it(installed, monkeypatch):
    """In whatever way a package fails that does not have what is called; with the right versions it keeps its traceback."""

    def fail(*_, **__):
        raise AttributeError("module 'transformers' has no attribute 'Idefics2Config'")

    monkeypatch.setattr("idefics2_onnx.export.export_model", fail)
    with pytest.raises(AttributeError):
        CliRunner().invoke(main, ["export", "x"], catch_exceptions=False)
    installed["transformers"] = "4.30.0"
    result = CliRunner().invoke(main, ["export", "x"], catch_exceptions=False)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        "Error: This does not work with transformers 4.30.0 (>=5.23,<5.25 needed): module 'transformers' has no attribute "
        f"'Idefics2Config'. Run: {install('export')}"
    )


PLANTED = """
import sys, types, importlib.metadata as metadata
real = metadata.version
metadata.version = lambda name: {VERSIONS}.get(name) or real(name)

class Planted:
    def find_spec(self, name, path=None, target=None):
        if name in {NAMES}:
            raise {ERROR}

sys.meta_path.insert(0, Planted())
from idefics2_onnx.cli import main
main({ARGUMENTS}, prog_name="x")
"""


@pytest.mark.parametrize(
    ("names", "error", "versions", "arguments", "match"),
    [
        ("transformers", "ImportError('tokenizers>=9 is required')", {"transformers": "6.0"}, "export", "transformers 6.0 .>=5.23,<5.25 needed.: tokenizers>=9"),
        ("torch", "AttributeError('no attribute uint64')", {"torch": "1.9"}, "export", "torch 1.9 .*no attribute uint64"),
        ("torch", "RuntimeError('built for another NumPy')", {"numpy": "1.20"}, "export", "numpy 1.20 .*another NumPy"),
        ("torch", "ImportError('cannot import name x')", {}, "export", "cannot be imported .cannot import name x.*pip install .*.export"),
        ("onnxruntime", "ModuleNotFoundError('gone', name='onnxruntime')", {}, "run", "needs onnxruntime, which is not installed.*.cpu.'$"),
        ("onnxruntime", "ModuleNotFoundError('gone', name='onnxruntime')", {}, "export", "needs onnxruntime, which is not.*.cpu.'$"),
        ("PIL", "ModuleNotFoundError('gone', name='PIL')", {}, "run", "needs PIL, which is not installed. Run: pip install [^\\[]*$"),
        ("huggingface_hub", "ModuleNotFoundError('gone', name='huggingface_hub')", {}, "hub", "needs huggingface_hub, which is not"),
        ("onnxruntime", "ImportError('DLL load failed')", {}, "run", "cannot be imported .DLL load failed"),
        ("tokenizers", "AttributeError('x')", {"tokenizers": "0.1"}, "run", "tokenizers 0.1 .>=0.22 needed.: x"),
        ("huggingface_hub", "ImportError('x')", {"huggingface_hub": "0.3"}, "hub", "huggingface_hub 0.3"),
    ],
)  # fmt: skip
def test_packages_that_fail_as_they_are_imported(names, error, versions, arguments, match, tmp_path):
    asked = {"export": ["export", "x"], "run": ["run", "Hi"], "hub": ["run", "Hi", "-m", "a/b"]}[arguments]
    code = PLANTED.replace("{VERSIONS}", repr(versions)).replace("{NAMES}", repr([names])).replace("{ERROR}", error)
    run = subprocess.run(
        [sys.executable, "-c", code.replace("{ARGUMENTS}", repr(asked))], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    last = run.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert re.search(match, last), last


@pytest.mark.parametrize(
    ("variable", "arguments"),
    [
        ("HF_HUB_DOWNLOAD_TIMEOUT", ["run", "Hi", "-m", "a/b"]),
        ("HF_HUB_ETAG_TIMEOUT", ["run", "Hi", "-m", "a/b"]),
        ("HF_HUB_ETAG_TIMEOUT", ["export", "a/b"]),
    ],
)
def test_variables_that_huggingface_hub_cannot_read(variable, arguments, tmp_path):
    """It reads them as it is imported."""
    code = "from idefics2_onnx.cli import main; main(prog_name='x')"
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=os.environ | {variable: "é"}, capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    assert re.match("Error: A variable that huggingface_hub reads .*'é'.*begin with HF_", run.stderr.splitlines()[-1])


@pytest.mark.parametrize(
    ("written", "command"),
    [
        (None, "pip install 'idefics2-onnx[export]'"),
        ({"url": "{folder}", "dir_info": {}}, "pip install '{path}[export]'"),
        ({"url": "file:///gone/away", "dir_info": {}}, "pip install 'idefics2-onnx[export]'"),
        ({"url": "https://x.org/a.whl", "archive_info": {}}, "pip install 'idefics2-onnx[export] @ https://x.org/a.whl'"),
        (
            {"url": "https://x.org/a.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "pip install 'idefics2-onnx[export] @ git+https://x.org/a.git@abc'",
        ),
        ("damaged", "pip install 'idefics2-onnx[export]'"),
    ],
)
def test_the_package_is_installed_from_where_it_came(written, command, tmp_path, monkeypatch):
    """pip writes down where from, and an index may not have it."""
    folder = tmp_path / "with a space"
    folder.mkdir()
    text = written if written is None or isinstance(written, str) else json.dumps(written).replace("{folder}", folder.as_uri())
    monkeypatch.setattr(importlib.metadata.Distribution, "read_text", lambda *_: text)
    monkeypatch.setattr(
        importlib.metadata, "distribution", lambda _: importlib.metadata.PathDistribution(tmp_path / "x.dist-info")
    )
    monkeypatch.setattr(importlib.metadata.PathDistribution, "read_text", lambda *_: text)
    assert install("export") == command.replace("{path}", str(folder))
