"""Model folders from strangers: missing, damaged, or leading outside."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from idefics2_onnx import Idefics2Processor
from idefics2_onnx.graphs.contract import MANIFEST
from idefics2_onnx.graphs.errors import ModelFolderError
from idefics2_onnx.runtime.commands.check import check_folder
from idefics2_onnx.runtime.errors import Idefics2OnnxError
from idefics2_onnx.runtime.folder import DEMO, MODEL_CARD, ModelFolder
from idefics2_onnx.runtime.model import Idefics2
from manifest_edits import listed


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(DEMO, tmp_path / "model"))


def refused(folder: Path | str, match: str) -> None:
    with pytest.raises(Idefics2OnnxError, match=match) as caught:
        Idefics2.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)


def test_what_is_no_model_folder(tmp_path, folder):
    refused(tmp_path / "nowhere", "is not a folder")
    refused(folder / "config.json", "is not a folder")
    refused(tmp_path, "has no idefics2_onnx.json, so it is no model folder")
    (folder / MANIFEST).unlink()
    refused(folder, "so it is a checkpoint")
    (folder / "onnx").mkdir()  # export --layout transformers.js
    refused(folder, "so it is in the layout of another library")


def test_a_path_is_no_hub_id(tmp_path, monkeypatch):
    """Or a folder that is missing would be asked for under its name at the hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("idefics2_onnx.runtime.folder.download", None)
    refused(Path("models/idefics2"), "models/idefics2 is not a folder")


@pytest.mark.parametrize("name", [MANIFEST, "decoder.onnx"])
def test_files_that_the_system_does_not_let_us_read(name, folder, monkeypatch):
    opened = Path.open

    def locked(path, *arguments, **options):
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", locked)
    refused(folder, f"{name}.*Permission denied")


def test_a_folder_that_the_system_does_not_let_us_read(folder, monkeypatch):
    def locked(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", locked)
    refused(folder, r"cannot be read \(Permission denied\). Check its permissions")


@pytest.mark.parametrize("name", sorted(path.name for path in DEMO.iterdir() if path.name != MODEL_CARD))
def test_every_file_is_guarded(name, folder):
    """Missing, shortened, or with one bit changed: each is noticed when the folder is opened."""
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[:-2])
    refused(folder, "bytes where" if name != MANIFEST else "not readable JSON")
    if name != MANIFEST:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        refused(folder, f"{name} is damaged: its SHA-256")
    path.unlink()
    refused(folder, f"lacks the file {name}" if name != MANIFEST else f"has no {MANIFEST}")


def test_links_may_not_lead_outside(folder, tmp_path):
    secret = tmp_path / "secret.json"
    (folder / "config.json").rename(secret)
    (folder / "config.json").symlink_to(secret)
    refused(folder, "a link to a file outside")


def test_unlisted_files_are_not_read(folder, tmp_path):
    """A template that the manifest does not vouch for, and a link to one outside."""
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["files"]["chat_template.json"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    refused(folder, "has the file chat_template.json, which .* does not list")
    (folder / "chat_template.json").unlink()
    (tmp_path / "secret.jinja").write_text("secret")
    (folder / "chat_template.jinja").symlink_to(tmp_path / "secret.jinja")
    refused(folder, "a link to a file outside")
    with pytest.raises(ModelFolderError, match="a link to a file outside"):
        Idefics2Processor.from_pretrained(folder)


def test_links_of_the_hub_cache_are_followed(folder, tmp_path):
    blobs, snapshot = tmp_path / "repo" / "blobs", tmp_path / "repo" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in folder.iterdir():
        path.rename(blobs / path.name)
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    assert Idefics2.from_pretrained(snapshot).generate("Hi", max_new_tokens=1).token_ids


def test_another_interface_is_refused(folder):
    """A whole folder whose graphs are of another precision than its manifest says."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["dtype"] = "fp32"
    (folder / MANIFEST).write_text(json.dumps(manifest))
    refused(folder, r"vision.onnx has the input pixel_values tensor\(float16\).*contract is pixel_values tensor\(float\)")


def test_a_graph_that_is_no_graph(folder):
    content = b"not ONNX" * 100
    _replace(folder, "vision.onnx", content)
    refused(folder, "vision.onnx is not an ONNX graph")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("tokenizer.json", b"{}", "is not a tokenizer"),
        ("preprocessor_config.json", b"[1]", "no JSON object"),
        ("processor_config.json", b'{"image_seq_len": 3}', r"3 tokens, the model \d+"),
        ("processor_config.json", b'{"image_seq_len": "abc"}', "image_seq_len 'abc'"),
        ("processor_config.json", b'{"image_processor": [1]}', "no image options"),
        ("preprocessor_config.json", b'{"size": {"shortest_edge": "a", "longest_edge": 5}}', "cannot be used: size"),
        (
            "preprocessor_config.json",
            b'{"size": {"shortest_edge": 378, "longest_edge": 9000}}',
            "tiles of over 67,108,864 pixels",
        ),
        ("preprocessor_config.json", b'{"image_std": [0, 1, 1]}', "cannot be used: image_std"),
        (
            "preprocessor_config.json",
            b'{"do_image_splitting": 1}',
            "preprocessor_config.json cannot be used: do_image_splitting is 1",
        ),
        ("preprocessor_config.json", b'{"do_pad": "false"}', "cannot be used: do_pad is 'false'"),
        ("preprocessor_config.json", b'{"size": {"height": true, "width": 5}}', "cannot be used: size"),
        ("preprocessor_config.json", b'{"rescale_factor": "0.1"}', "cannot be used: rescale_factor is '0.1'"),
        (
            "processor_config.json",
            b'{"image_processor": {"do_resize": 0}}',
            "processor_config.json cannot be used: do_resize is 0",
        ),
        ("processor_config.json", b'{"image_seq_len": true}', "image_seq_len True"),
        ("tokenizer_config.json", b'{"extra_special_tokens": {"a_token": 5}}', "is not a tokenizer"),
        ("tokenizer_config.json", b'{"pad_token": 5}', "special token 5"),
        ("tokenizer_config.json", b'{"padding_side": "top"}', "'top'"),
        ("generation_config.json", b"{", "not readable JSON"),
        ("generation_config.json", b'{"max_new_tokens": "x"}', "cannot be used: max_new_tokens"),
        ("generation_config.json", b'{"bad_words_ids": [5]}', "cannot be used: bad_words_ids"),
        ("config.json", b"[" * 100_000, "not readable JSON"),
    ],
)
def test_processor_files_that_cannot_be(name, content, match, folder):
    _replace(folder, name, content)
    refused(folder, match)


def _replace(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    listed(folder, name)


def test_hub_ids_that_cannot_be_had(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused("nobody/no-such-model", "could not be downloaded")


def test_self_check(folder):
    lines = list(check_folder(ModelFolder.open(folder)))
    assert [line.split(":")[0] for line in lines] == [
        "files",
        "processor",
        "interfaces",
        "vision.onnx",
        "embedding.onnx",
        "decoder.onnx",
    ]


def test_self_check_names_what_nobody_vouches_for(folder):
    for name in ("notes.txt", ".hidden"):
        (folder / name).touch()
    (line,) = [line for line in check_folder(ModelFolder.open(folder)) if line.startswith("not checked")]
    assert line == "not checked: 'notes.txt', which the manifest does not list and nothing reads"


def test_self_check_sees_what_is_not_finite(folder):
    data = bytearray((folder / "decoder.onnx.data").read_bytes())
    data[-4096:] = b"\xff" * 4096  # fp16 NaN
    _replace(folder, "decoder.onnx.data", bytes(data))
    with pytest.raises(ModelFolderError, match="not finite"):
        list(check_folder(ModelFolder.open(folder)))


def test_an_app_without_the_demo(monkeypatch, tmp_path):
    """A frozen app that its maker gave no data files."""
    monkeypatch.setattr("idefics2_onnx.runtime.folder.DEMO", tmp_path / "absent")
    with pytest.raises(ModelFolderError, match="demo model .* is missing: there is no folder .*absent.*Name a model folder"):
        Idefics2.from_pretrained()
    (tmp_path / "absent").mkdir()
    with pytest.raises(ModelFolderError, match="demo model .* is missing: there is no file .*absent"):
        Idefics2.from_pretrained()
