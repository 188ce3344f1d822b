"""Exports that stop half-way: what they leave behind, and how the next one goes on."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from typing import ClassVar

import pytest
from exports_apart import apart, export_that_takes_long, export_with_small_files
from filelock import FileLock
from idefics2_onnx.export import Listener, export_model, pipeline, weights
from idefics2_onnx.export.errors import CheckpointError
from idefics2_onnx.runtime.model import Idefics2

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@forks
def test_write_that_fails_leaves_nothing(checkpoint, exported, shared, tmp_path):
    exported("plain")  # what is traced is a file, too, which has to be there
    hears, says = multiprocessing.Pipe(duplex=False)
    process = apart(export_with_small_files, checkpoint("plain"), tmp_path / "out", shared, says)
    process.join(60)
    assert hears.poll()
    assert "out cannot be written (File too large). Choose another with -o." in hears.recv()
    assert list(tmp_path.iterdir()) == []


@forks
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_export(how, checkpoint, shared, tmp_path):
    """Stopped half way, an export leaves no folder under its name, and the next run goes on from there."""
    target, part = tmp_path / "out", tmp_path / ".out.partial"
    process = apart(export_that_takes_long, checkpoint("plain"), target, shared)
    while not (part / "folder" / "embedding.onnx").exists():
        assert process.is_alive()
        time.sleep(0.01)
    for _ in range(6):  # Python drops a Ctrl-C that comes inside of a destructor
        if process.is_alive():
            os.kill(process.pid, how)
            process.join(10)
    assert process.exitcode
    assert not target.exists()

    class Lines(Listener):
        said: ClassVar[list[str]] = []

        def say(self, line):
            self.said.append(line)

    whole = export_model(checkpoint("plain"), tmp_path / "whole", "fp32", verify="never")
    resumed = export_model(checkpoint("plain"), target, "fp32", verify="never", listener=Lines())
    assert Lines.said == ["Going on with an export that was interrupted."]
    assert resumed.manifest.files == whole.manifest.files
    assert {path.name for path in tmp_path.iterdir()} == {"out", "whole"}
    assert Idefics2.from_pretrained(target).generate("Hello", max_new_tokens=2).token_ids


@pytest.mark.parametrize(("precision", "stop"), [("fp16", 7), ("int4", 40)])
def test_every_place_to_stop_is_as_good(precision, stop, checkpoint, tmp_path, monkeypatch):
    """After any number of parts, what is there is kept to the byte and the rest is made."""
    whole = export_model(checkpoint("plain"), tmp_path / "whole", precision, verify="never").manifest.files
    real = weights.ahead
    left = [stop]

    def some(parts, left=left):
        for part in real(parts):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            yield part

    monkeypatch.setattr(weights, "ahead", some)
    with pytest.raises(KeyboardInterrupt):
        export_model(checkpoint("plain"), tmp_path / "out", precision, verify="never")
    left[0] = 10**6
    data = tmp_path / ".out.partial" / "folder" / "vision.onnx.data"
    with data.open("ab") as file:  # half a tensor
        file.write(b"torn")
    assert export_model(checkpoint("plain"), tmp_path / "out", precision, verify="never").manifest.files == whole


@pytest.mark.parametrize("spoilt", ["zeros", "no journal", "a torn journal"])
def test_what_never_reached_the_disk_is_made_again(spoilt, checkpoint, tmp_path, monkeypatch):
    """A power cut leaves files of their full length, with zeros for what was not written."""
    whole = export_model(checkpoint("plain"), tmp_path / "whole", "fp32", verify="never").manifest.files
    real = pipeline.write_graph

    def some(graph, *rest):
        if graph.name == "decoder":
            raise KeyboardInterrupt
        return real(graph, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "write_graph", some)
        with pytest.raises(KeyboardInterrupt):
            export_model(checkpoint("plain"), tmp_path / "out", "fp32", verify="never")
    left = tmp_path / ".out.partial"
    data, journal = left / "folder" / "vision.onnx.data", left / "vision.onnx.data.journal"
    assert json.loads(journal.read_text().splitlines()[-1])["bytes"] == data.stat().st_size
    data.write_bytes(data.read_bytes()[:1000] + bytes(data.stat().st_size - 1000))
    if spoilt == "no journal":
        journal.unlink()
    elif spoilt == "a torn journal":
        journal.write_text(journal.read_text()[:-20])
    assert export_model(checkpoint("plain"), tmp_path / "out", "fp32", verify="never").manifest.files == whole


def test_another_plan_starts_afresh(checkpoint, tmp_path):
    for options in ({"precision": "fp32"}, {"precision": "fp16"}):
        part = tmp_path / ".out.partial"
        (part / "folder").mkdir(parents=True)
        (part / "plan.json").write_text('{"other": 1}')
        (part / "folder" / "stale").write_text("x")
        folder = export_model(checkpoint("plain"), tmp_path / "out", verify="never", **options).folder
        assert not (folder / "stale").exists()
        shutil.rmtree(folder)


def test_two_exports_to_one_place(checkpoint, tmp_path):
    (tmp_path / ".out.partial").mkdir()
    with FileLock(tmp_path / ".out.partial" / "lock"), pytest.raises(CheckpointError, match="Another export to .*out is running"):
        export_model(checkpoint("plain"), tmp_path / "out", verify="never")
    assert export_model(checkpoint("plain"), tmp_path / "out", verify="never").folder.exists()


@pytest.mark.usefixtures("compared_here")
def test_an_interrupted_comparison_is_made_again(checkpoint, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("idefics2_onnx.export.pipeline.verify_in_subprocess", interrupt)
        with pytest.raises(KeyboardInterrupt):
            export_model(checkpoint("plain"), tmp_path / "out", "fp32", verify="always")
    report = export_model(checkpoint("plain"), tmp_path / "out", "fp32", verify="always")
    assert report.verification is not None
    Idefics2.from_pretrained(report.folder)
    assert list(tmp_path.iterdir()) == [report.folder]
