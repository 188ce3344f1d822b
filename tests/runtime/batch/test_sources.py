"""Inputs as they are typed → questions, in one order, with what is wrong with each."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest
from idefics2_onnx.runtime.batch import json_lines
from idefics2_onnx.runtime.batch.columns import Columns
from idefics2_onnx.runtime.batch.sources import sources
from idefics2_onnx.runtime.errors import BatchError

COLUMNS = Columns("image", "prompt", "What?")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def questions(*inputs: str, columns: Columns = COLUMNS) -> list:
    found = sources(inputs, columns)
    asked = [question for source in found for question in source.questions()]
    assert sum(source.count() for source in found) == len(asked)
    return asked


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def test_folders_and_patterns():
    touch(
        "photos/b.png",
        "photos/a.JPG",
        "photos/notes.txt",
        "photos/.c.png",
        "photos/.git/d.png",
        "photos/z/e.webp",
        "photos/m/f.png",
    )
    in_folder = ["photos/a.JPG", "photos/b.png", "photos/m/f.png", "photos/z/e.webp"]
    assert [one.id for one in questions("photos")] == in_folder
    assert [one.id for one in questions("./photos/*.png", "photos/notes.txt")] == ["photos/b.png", "photos/notes.txt"]
    assert [one.id for one in questions("**/*.png")] == ["photos/b.png", "photos/m/f.png"]
    touch("[1].png", "1.png")
    (one,) = questions("[1].png")  # a name that is there is no pattern
    assert (one.id, one.images, one.names, one.prompt) == ("[1].png", [Path("[1].png")], ["[1].png"], "What?")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("none.png", r"No file and no folder is called none\.png"),
        ("*.gif", r"No file and no folder fits the pattern \*\.gif"),
        ("x" * 300, "is called x"),
        ("a\0b", "is called a"),
        ("https://example.org/a.png", "is a URL. Download it"),
    ],
)
def test_what_is_not_there(name, match):
    with pytest.raises(BatchError, match=match):
        sources([name], COLUMNS)


def test_pictures_need_a_prompt_and_folders_need_pictures():
    touch("a.png", "notes/a.txt")
    with pytest.raises(BatchError, match=r"a\.png has no prompt beside its pictures\. Give --prompt"):
        sources(["a.png"], Columns("image", "prompt", None))
    with pytest.raises(BatchError, match=r"notes and the folders in it hold no picture \(\.jpg, "):
        sources(["notes"], COLUMNS)[0].count()


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is closed to root")
def test_a_folder_that_cannot_be_read():
    touch("photos/a/b.png", "photos/c.png")
    Path("photos/a").chmod(0)
    with pytest.raises(BatchError, match="photos/a cannot be read"):
        sources(["photos"], COLUMNS)[0].count()


def test_lines(here, monkeypatch):
    monkeypatch.setattr(json_lines, "LONGEST", 200)
    url = "data:image/png;base64," + base64.b64encode(b"x").decode()
    good = [
        {"image": "a.png"},
        {"image": ["a.png", "/b.png"], "prompt": "Same?"},
        {"image": None, "prompt": "Hi"},
        {"image": [url, {"path": "c.png"}]},
        {"image": "é.png", "other": 1},
    ]
    bad = {
        "{": "The line is no JSON: ",
        "[1]": "The line is a list in JSON. Write an object",
        "[" * 199: "The line is no JSON",
        '{"image": "\xff"}': "The line is no JSON",  # as bytes: no UTF-8
        json.dumps({"x": "y" * 300}): "The line has more than 200 bytes",
        '{"prompt": "Hi"}': "There is no image among prompt. Name the pictures' column with --image-column.",
        '{"image": 7}': "A picture is a int. Write its path",
        '{"image": "a.png", "prompt": 7}': "The prompt is 7, which is no text",
        '{"image": "https://example.org/a.png"}': "is a URL, and a table's are not followed",
    }
    lines = [json.dumps(each, ensure_ascii=False).encode() for each in good]
    lines[1:1] = [b"", b"  \r"]
    lines += [line.encode("latin-1") for line in bad]
    (here / "sub").mkdir()
    (here / "sub" / "t.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    found = questions("sub/t.jsonl")
    assert [one.id for one in found] == [f"sub/t.jsonl:{n}" for n in (1, *range(4, 4 + len(found) - 1))]
    assert [(one.names, one.prompt) for one in found[:5]] == [
        (["sub/a.png"], "What?"),
        (["sub/a.png", "/b.png"], "Same?"),
        ([], "Hi"),
        ([None, "sub/c.png"], "What?"),
        (["sub/é.png"], "What?"),
    ]
    assert found[3].images[0] == url
    for one, match in zip(found[5:], bad.values(), strict=True):
        assert match in one.error
    (here / "u.jsonl").write_text('{"image": "a.png"}')
    (bare,) = questions("u.jsonl", columns=Columns("image", "prompt", None))
    assert bare.error == "There is no prompt under prompt. Write it there, or give --prompt."
