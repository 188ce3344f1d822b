"""Checkpoints and model folders from the hub: what is asked for, and a sentence for every way in which it fails."""

from __future__ import annotations

import errno
import json
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hub import SHA, Hub, connect
from idefics2_onnx import Idefics2ImageProcessor, Idefics2Processor
from idefics2_onnx.cli import main
from idefics2_onnx.export import export_model
from idefics2_onnx.export.errors import CheckpointError
from idefics2_onnx.export.source.checkpoint import Checkpoint
from idefics2_onnx.graphs.contract import MANIFEST
from idefics2_onnx.graphs.errors import ModelFolderError
from idefics2_onnx.runtime.folder import DEMO, MODEL_CARD, ModelFolder
from idefics2_onnx.runtime.model import Idefics2
from idefics2_onnx.runtime.outside.hub import download

LEFTOVERS = {
    "checkpoint-100/config.json": b"{}",
    "checkpoint-100/model.safetensors": b"x" * 100,
    "checkpoint-100/optimizer.pt": b"x",
    "onnx/decoder.onnx": b"x",
    "pytorch_model.bin": b"x",
    "consolidated.safetensors": b"x",
    "trainer_state.json": b"{}",
    "README.md": b"x",
}


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Start a stand-in for the hub, and a cache of its own."""
    hubs = []

    def start(files, fault=lambda path: None, cache=tmp_path / "cache") -> Hub:
        hubs.append(Hub(files, fault))
        connect(monkeypatch, hubs[-1].address, str(cache))
        return hubs[-1]

    yield start
    for each in hubs:
        each.server.shutdown()
        each.server.server_close()


def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("name", ["plain", "wide_heads"])
def test_of_a_checkpoint_only_what_is_read_is_asked_for(name, hub, checkpoint):
    """One file of weights, or the index first and then its shards."""
    files = files_of(checkpoint(name))
    assert name == "plain" or sum(file.endswith(".safetensors") for file in files) > 1
    standing_in = hub(files | LEFTOVERS)
    opened = Checkpoint.open("someone/tuned", "main")
    assert (opened.source, opened.revision) == ("someone/tuned", SHA)
    assert opened.tensors.keys() == Checkpoint.open(checkpoint(name)).tensors.keys()
    assert sorted(standing_in.served) == sorted([*files, MODEL_CARD])  # for its licence


def test_shards_beside_a_single_file_are_not_asked_for(hub, checkpoint):
    """They are left over from another save."""
    files = files_of(checkpoint("wide_heads")) | {"model.safetensors": files_of(checkpoint("plain"))["model.safetensors"]}
    standing_in = hub(files)
    Checkpoint.open("someone/tuned")
    assert [name for name in standing_in.served if name.endswith(".safetensors")] == ["model.safetensors"]


def test_of_a_model_folder_only_what_its_manifest_lists(hub, monkeypatch):
    files = files_of(DEMO)
    standing_in = hub(files | LEFTOVERS | {"more/decoder.onnx.data": b"x", "model.safetensors": b"x", "other.onnx": b"x"})
    folder = ModelFolder.open("someone/tuned")
    assert folder.path.name == SHA
    assert standing_in.served[0] == MANIFEST
    assert sorted(standing_in.served) == sorted(set(files) - {MODEL_CARD})
    offline(monkeypatch)
    assert Idefics2.from_pretrained("someone/tuned").generate("Hi", max_new_tokens=1).token_ids


@pytest.mark.parametrize("inside", ["fp16", "onnx/demo-1.0"])
def test_a_folder_inside_of_a_repository(inside, hub, monkeypatch):
    """One repository may hold several precisions."""
    files = {f"{inside}/{name}": content for name, content in files_of(DEMO).items() if name != MODEL_CARD}
    standing_in = hub(files | LEFTOVERS | {"int4/decoder.onnx.data": b"x", "decoder.onnx.data": b"x"})
    folder = ModelFolder.open("someone/tuned", subfolder=inside)
    assert folder.path.parts[-2 - inside.count("/") :] == (SHA, *inside.split("/"))
    assert sorted(standing_in.served) == sorted(files)
    offline(monkeypatch)
    for opened in (
        Idefics2.from_pretrained(f"someone/tuned:{inside}"),
        Idefics2.from_pretrained("someone/tuned", subfolder=inside, revision="main"),
        Idefics2.from_pretrained(folder.path.parents[inside.count("/")], subfolder=inside),
    ):
        assert opened.generate("Hi", max_new_tokens=1).token_ids
    for reader in (Idefics2Processor, Idefics2ImageProcessor):
        assert reader.from_pretrained(f"someone/tuned:{inside}").__dict__.keys()
        assert reader.from_pretrained("someone/tuned", subfolder=inside).__dict__.keys()
    result = CliRunner().invoke(main, ["info", f"someone/tuned:{inside}"], catch_exceptions=False)
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("source", "subfolder", "match"),
    [
        ("someone/tuned", "../other", "subfolder is '../other'. Give the path of a folder inside the repository"),
        ("someone/tuned", "/etc", "subfolder is '/etc'"),
        ("someone/tuned", "a/../../b", "subfolder is"),
        ("someone/tuned", ".git", "subfolder is"),
        ("someone/tuned", "a\\b", "subfolder is"),
        ("someone/tuned", 5, "subfolder is 5"),
        ("someone/tuned:", "", "subfolder is ''"),
        ("someone/tuned:..", "", "subfolder is '..'"),
        ("someone/tuned:a", "b", "someone/tuned:a and subfolder='b' name two folders"),
        (DEMO, "..", "subfolder is '..'"),
        (DEMO, "int8", "int8 has no idefics2_onnx.json"),
        (None, "int8", "int8 has no idefics2_onnx.json"),
        ("some:where", "", "is not a folder"),
        ("./someone/tuned", "", "is not a folder"),
        ("someone/tuned/", "", "is not a folder"),
    ],
)
def test_subfolders_lead_nowhere_else(source, subfolder, match):
    with pytest.raises(ModelFolderError, match=re.escape(match)):
        ModelFolder.open(source, subfolder=subfolder)


def test_a_repository_that_is_no_model_folder(hub):
    hub(LEFTOVERS)
    with pytest.raises(ModelFolderError, match=f"someone/tuned on the hub has no {MANIFEST}.* as in owner/name:int8"):
        ModelFolder.open("someone/tuned")
    with pytest.raises(ModelFolderError, match=f"someone/tuned:int8 on the hub has no {MANIFEST}.*Check the folder's name"):
        ModelFolder.open("someone/tuned:int8")


def fault(status, body=b"", where="", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda path: (status, named, body) if where in path else None


FAULTS = {
    "401": (fault(401), "401 Unauthorized.*hf auth login.*HF_TOKEN"),
    "403": (fault(403), "403 Forbidden"),
    "gated": (fault(403, X_Error_Code="GatedRepo"), "Ask for access at https://huggingface.co/someone/tuned, then log in"),
    "gated file": (fault(403, where="/resolve/", X_Error_Code="GatedRepo"), "Ask for access"),
    "disabled": (fault(403, X_Error_Message="Access to this resource is disabled."), "its owner has switched it off"),
    "404": (fault(404), "404 Not Found"),
    "unknown": (fault(404, X_Error_Code="RepoNotFound"), "no such repository, or it is private.*hf auth login"),
    "revision": (fault(404, X_Error_Code="RevisionNotFound"), "it has no revision 'main'.*--revision"),
    "407": (fault(407), "the proxy asks for a password"),
    "418": (fault(418), "418 I'm a Teapot"),
    "429": (fault(429), "429 Too Many Requests.*Wait some minutes"),
    "503": (fault(503), "503 Service Unavailable.*Try again later"),
    "portal": (fault(200, b"<html>Sign in</html>"), "what answered is not the hub.*sign-in page"),
    "portal's JSON": (fault(200, b"{}"), "what answered is not the hub"),
    "portal sends on": (lambda path: (302, {"Location": "/in"}, b"") if path != "/in" else (200, {}, b"<"), "is not the hub"),
    "portal for files": (fault(200, b"<html>", where="/resolve/"), "is not the hub"),
    "odd tree": (fault(200, b'{"a": 1}', where="/tree/"), "is not the hub"),
    "circles": (lambda path: (302, {"Location": path}, b""), "sends in circles"),
    "no HTTP": (lambda path: b"SSH-2.0\r\n", "no connection"),
    "hangs up": (lambda path: b"\r\n", "no connection"),
    "breaks off": (fault(200, b"abc", Content_Length="100", Connection="close"), "no connection"),
}


@pytest.mark.parametrize(("answers", "match"), FAULTS.values(), ids=FAULTS)
def test_a_hub_that_fails(answers, match, hub):
    hub({"config.json": b"{}"}, answers)
    refused(match)


def refused(match, hub_id="someone/tuned", revision=None):
    with pytest.raises(ModelFolderError, match=match) as caught:
        download(hub_id, revision, ["config.json"], [["config.json"]])
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")
    assert hub_id in str(caught.value)


PROXIES = {
    "https://a.invalid": [
        ("HTTPS_PROXY", 407, "the proxy asks for a password"),
        ("HTTPS_PROXY", 403, "the proxy refused: 403 Forbidden"),
        ("HTTPS_PROXY", 200, "no secure connection"),
        ("HTTPS_PROXY", "http://127.0.0.1:9", "no connection.*HTTPS_PROXY"),
        ("HTTPS_PROXY", "http://a:b:c", "of a proxy is none: Invalid port"),
        ("HTTPS_PROXY", "ftp://127.0.0.1:9", "the proxy's address is none"),
        ("HTTPS_PROXY", "http://\udcff", "of a proxy is none"),
        ("ALL_PROXY", "socks4://127.0.0.1:9", "the proxy's address is none"),
        ("ALL_PROXY", "socks5://127.0.0.1:9", "socksio is not installed"),
        ("SSL_CERT_FILE", "/nowhere", "no file of certificates where one is named"),
        ("SSL_CERT_FILE", __file__, "certificate cannot be trusted|no certificate"),
    ],
    "http://a.invalid": [("HTTP_PROXY", 407, "the proxy asks for a password"), ("HTTP_PROXY", 403, "403 Forbidden")],
    "http://127.0.0.1:9": [("X", "", "no connection: .*Connection refused")],
    "nonsense": [("X", "", "address of the hub .*is none")],
    "ftp://a": [("X", "", "address of the hub .*is none")],
}


@pytest.mark.parametrize(
    ("endpoint", "variable", "value", "match"), [(endpoint, *case) for endpoint, cases in PROXIES.items() for case in cases]
)
def test_ways_to_the_hub_that_are_closed(endpoint, variable, value, match, hub, monkeypatch, tmp_path):
    standing_in = hub({}, fault(value) if isinstance(value, int) else lambda path: None)
    connect(monkeypatch, endpoint, str(tmp_path / "cache"))
    monkeypatch.setenv(variable, standing_in.address if isinstance(value, int) else value)
    monkeypatch.setitem(__import__("sys").modules, "socksio", None)
    refused(match)


def test_a_cache_that_cannot_be_written(hub, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    hub({"config.json": b"{}"}, cache=tmp_path / "file")
    refused("cache cannot be written.*HF_HOME")
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: (_ for _ in ()).throw(full))
    refused("is full.*Free some space")


@pytest.mark.parametrize("hub_id", ["a/" + "b" * 200, "a--b/c", "a/b.git", "a/b..c"])
def test_names_that_no_repository_has(hub_id, hub):
    hub({})
    refused("Check the name", hub_id)
    with pytest.raises(CheckpointError, match="Check the name"):
        export_model(hub_id)


def test_nothing_in_the_cache_offline(hub, monkeypatch):
    hub({})
    offline(monkeypatch)
    refused("HF_HUB_OFFLINE is set")


@pytest.mark.parametrize("listed", [True, False])
def test_part_of_a_repository_in_the_cache_offline(listed, hub, checkpoint, monkeypatch, tmp_path):
    """Whether the cache knows what the repository holds, or a single file was downloaded into it."""
    hub(files_of(checkpoint("plain")))
    cached = download("someone/tuned", None, ["config.json", "model.safetensors"])
    if not listed:
        for path in (cached.parents[1] / "trees").glob("*"):
            path.unlink()
    offline(monkeypatch)
    with pytest.raises(
        CheckpointError,
        match="holds only part of someone/tuned .it lacks .*tokenizer.json.*HF_HUB_OFFLINE is set.*Go online once",
    ):
        export_model("someone/tuned", tmp_path / "out", "fp32", verify="never")


def test_part_of_a_model_folder_in_the_cache_offline(hub, monkeypatch):
    hub(files_of(DEMO))
    download("someone/tuned", None, [MANIFEST])
    offline(monkeypatch)
    with pytest.raises(
        ModelFolderError, match="holds only part of someone/tuned .it lacks .*HF_HUB_OFFLINE is set.*Go online once"
    ):
        Idefics2.from_pretrained("someone/tuned")


def test_a_manifest_that_names_files_outside(hub):
    manifest = json.loads((DEMO / MANIFEST).read_text())
    manifest["files"] |= {"../../secret": {"size": 1, "sha256": "0" * 64}, "*": {"size": 1, "sha256": "0" * 64}}
    standing_in = hub(files_of(DEMO) | {MANIFEST: json.dumps(manifest).encode(), "model.safetensors": b"x"})
    with pytest.raises(ModelFolderError):
        ModelFolder.open("someone/tuned")
    assert "model.safetensors" not in standing_in.served


@pytest.mark.parametrize("kind", [Idefics2Processor, Idefics2ImageProcessor])
def test_processors_are_opened_by_their_hub_id(kind, hub):
    """Of what is there, the files that they read; weights are not."""
    files = files_of(DEMO)
    standing_in = hub(files | LEFTOVERS)
    found, ours = kind.from_pretrained("someone/tuned"), kind.from_pretrained(DEMO)
    if kind is Idefics2Processor:
        assert found(text="Hi").input_ids.tolist() == ours(text="Hi").input_ids.tolist()
        found, ours = found.image_processor, ours.image_processor
    assert found.options == ours.options
    assert not any(path.endswith((".onnx", ".data", ".safetensors", ".bin")) for path in standing_in.served)


def test_an_app_that_was_frozen_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelFolderError, match="needs huggingface_hub, which is not installed.* has to be frozen with it"):
        ModelFolder.open("owner/name")
