"""`push`, to a hub that is made up."""

from __future__ import annotations

import shutil

import pytest
from click.testing import CliRunner
from hub import connect
from hub_upload import UploadHub
from idefics2_onnx.cli import main
from idefics2_onnx.graphs.contract import MANIFEST
from idefics2_onnx.runtime.folder import DEMO, MODEL_CARD, ModelFolder


@pytest.fixture
def hub(monkeypatch, tmp_path):
    started = UploadHub()
    connect(monkeypatch, started.address, str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", started.token)
    yield started
    started.server.shutdown()
    started.server.server_close()


@pytest.fixture
def folder(tmp_path):
    made = shutil.copytree(DEMO, tmp_path / "model")
    (made / "notes.txt").write_text("mine")
    (made / ".hidden").write_text("mine")
    return made


def push(*arguments, exit_code=0):
    result = CliRunner().invoke(main, ["push", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == exit_code, result.output
    return result


def contents(folder):
    names = [*ModelFolder.open(folder).manifest.files, MANIFEST, MODEL_CARD]
    return {name: (folder / name).read_bytes() for name in names}


def test_a_folder_is_uploaded_with_its_card_and_nothing_else(hub, folder):
    result = push(folder, "me/demo-fp16")
    assert hub.repositories == {"me/demo-fp16": contents(folder)}
    assert result.stdout.splitlines()[-1].startswith(f"{hub.address}/me/demo-fp16/commit/")
    assert "Not uploaded: notes.txt" in result.stderr


def test_one_repository_holds_several(hub, folder):
    push(folder, "me/demo:fp16", "--private")
    push(folder, "me/demo:again/fp16")
    expected = contents(folder)
    assert hub.repositories["me/demo"] == {f"{at}/{n}": b for at in ("fp16", "again/fp16") for n, b in expected.items()}
    assert hub.private["me/demo"] in (True, "private")
    assert len(hub.sent) == len(set(hub.sent)) == 3  # the weights of three graphs, once


def test_a_dry_run_asks_nobody(hub, folder):
    result = push(folder, "me/demo:fp16", "--dry-run")
    assert not hub.repositories
    lines = result.stdout.splitlines()
    assert {line.split()[-1] for line in lines} == contents(folder).keys()
    assert "9.6 MB would go to me/demo, folder fp16." in result.stderr


def test_an_upload_that_broke_off_goes_on(hub, folder):
    hub.refuses = 1
    result = push(folder, "me/demo", exit_code=1)
    assert "could not be uploaded to me/demo (403 Forbidden: broken off)" in result.stderr
    assert hub.repositories == {"me/demo": {}}  # all or nothing
    push(folder, "me/demo")
    assert hub.repositories == {"me/demo": contents(folder)}
    assert len(hub.sent) == len(set(hub.sent)) == 3


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["me"], "'me' is no repository. Give owner/name"),
        (["me/demo:"], "subfolder is ''"),
        (["me/demo:../x"], "subfolder is '../x'"),
        (["https://hub/me/demo"], "is no repository"),
    ],
)
def test_names_that_are_none(arguments, match, folder, hub):
    result = CliRunner().invoke(main, ["push", str(folder), *arguments])
    assert result.exit_code in (1, 2)
    assert match in result.stderr
    assert not hub.repositories


def test_only_whole_folders_are_uploaded(hub, folder, checkpoint):
    (folder / "decoder.onnx").write_bytes(b"x" * (folder / "decoder.onnx").stat().st_size)
    assert "decoder.onnx is damaged" in push(folder, "me/demo", exit_code=1).stderr
    assert "so it is a checkpoint" in push(checkpoint("plain"), "me/demo", exit_code=1).stderr
    assert not hub.repositories


def test_the_hubs_own_reason_is_told(hub, folder):
    refused = {"errors": [{"message": '"license" must be one of [mit]'}], "warnings": []}
    for start, answer, words in (
        ("/api/repos/create", (403, {"error": "You have no rights under me"}), "(403 Forbidden: You have no rights under me)"),
        (
            "/api/validate-yaml",
            (400, refused),
            'the hub refuses the head of README.md: "license" must be one of [mit]). Correct that file; ',
        ),
        (
            "/api/models/me/demo/preupload",
            (404, {"code": "RevisionNotFound"}),
            "(it has no branch 'dev'). Make the branch on the hub, or",
        ),
        ("/api/models/me/demo/commit", (409, {"error": "Another commit came"}), "(409 Conflict: Another commit came)"),
    ):
        hub.answers = {start: answer}
        assert words in push(folder, "me/demo", "--revision", "dev", exit_code=1).stderr
    assert not hub.repositories.get("me/demo")


def test_a_card_that_is_no_text(hub, folder):
    (folder / MODEL_CARD).write_bytes(b"\xff\xfe")
    assert "(README.md is not UTF-8). Save it as UTF-8; then push again." in push(folder, "me/demo", exit_code=1).stderr


def test_a_file_that_cannot_be_read(hub, folder, monkeypatch):
    def unreadable(*_, **__):
        raise PermissionError(13, "Permission denied", str(folder / MODEL_CARD))

    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", unreadable)
    error = push(folder, "me/demo", exit_code=1).stderr
    assert f"Permission denied: '{folder / MODEL_CARD}'). Let this user read the folder; then push again." in error


def test_what_is_public_stays_untouched_where_private_was_asked_for(hub, folder):
    hub.repositories["me/demo"], hub.private["me/demo"] = {}, None
    assert "me/demo is there already and is public: nothing was sent" in push(folder, "me/demo", "--private", exit_code=1).stderr
    assert hub.repositories == {"me/demo": {}}
    hub.private["me/demo"] = True
    push(folder, "me/demo", "--private")
    assert hub.repositories == {"me/demo": contents(folder)}


def test_without_a_token(hub, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    error = push(folder, "me/demo", exit_code=1).stderr.splitlines()[-1]
    assert "could not be uploaded to me/demo (401 Unauthorized" in error
    assert error.endswith("log in with `hf auth login` or set HF_TOKEN; then push again.")
