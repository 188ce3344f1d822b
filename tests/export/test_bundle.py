"""The place of a model folder that is made: through links, or refused before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
from idefics2_onnx.export.bundle import new_folder
from idefics2_onnx.export.errors import CheckpointError


def make(target, work=True):
    with new_folder(target, 0, {}, print) as workplace:
        assert work, "work was begun"
        (workplace.folder / "weights").write_bytes(b"1")


@pytest.mark.parametrize("kind", ["a folder", "nothing yet", "nothing and no parent", "a link to a folder", "a folder in a link"])
def test_a_target_behind_a_link_is_written_through_it(kind, tmp_path):
    disk, link = tmp_path / ("no/disk" if "parent" in kind else "disk"), tmp_path / "link"
    if not kind.startswith("nothing"):
        disk.mkdir()
    link.symlink_to(disk)
    if kind == "a link to a folder":
        link = tmp_path / "second"
        link.symlink_to(tmp_path / "link")
    target, end = (link / "inner", disk / "inner") if kind == "a folder in a link" else (link, disk)
    make(target)
    assert link.is_symlink()
    assert [path.name for path in target.iterdir()] == [path.name for path in end.iterdir()] == ["weights"]
    assert {path.name for path in tmp_path.iterdir()} == {"no" if "parent" in kind else "disk", "link", link.name}
    assert [path.name for path in disk.parent.iterdir() if path.name.startswith(".")] == []


def test_what_no_folder_can_replace_is_refused_before_any_work(tmp_path, monkeypatch):
    for name in ("full", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "full" / "something").touch()
    (tmp_path / "file").touch()
    for name, end in {"round": "round", "to-file": "file", "to-full": "full", "to-here": "here", "to-root": "/"}.items():
        (tmp_path / name).symlink_to(tmp_path / end)
    before = {path.name for path in tmp_path.iterdir()}
    for name, match in {
        "round": "leads in a circle",
        "to-file": "already exists",
        "to-full": "already exists",
        "to-here": "cannot be replaced",
        "to-root": "cannot be replaced",
        "file/x": "cannot be written",
        "round/x": "cannot be written|in a circle",
        "x" * 300: "cannot be written",
    }.items():
        with pytest.raises(CheckpointError, match=match):
            make(tmp_path / name, work=False)
        assert {path.name for path in tmp_path.iterdir()} == before


def test_an_empty_folder_is_replaced_where_renaming_onto_one_fails(tmp_path, monkeypatch):
    """As on Windows."""
    real = Path.rename

    def rename(path, target):
        if Path(target).exists():
            raise FileExistsError(17, "File exists", str(target))
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty")
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["weights"]
