"""Questions from a Parquet file, and answers as one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from idefics2_onnx.runtime.batch.columns import Columns
from idefics2_onnx.runtime.batch.parquet_questions import ParquetQuestions
from idefics2_onnx.runtime.batch.row import COLUMNS
from idefics2_onnx.runtime.batch.table import read_table, write_table
from idefics2_onnx.runtime.errors import BatchError

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def table(tmp_path):
    def make(**columns: object) -> ParquetQuestions:
        parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
        return ParquetQuestions(tmp_path / "t.parquet", Columns("image", "prompt", "What?"))

    return make


def test_pictures_are_paths_bytes_or_records_of_both(table, tmp_path):
    found = list(table(image=["a.png", None], prompt=["Hi", None], other=[1, 2]).questions())
    assert [(one.id, one.images, one.prompt) for one in found] == [
        (f"{tmp_path}/t.parquet:1", [tmp_path / "a.png"], "Hi"),
        (f"{tmp_path}/t.parquet:2", [], "What?"),
    ]
    (one,) = table(image=[b"content"]).questions()
    assert (one.images, one.names) == ([b"content"], [None])
    records = [{"bytes": b"x", "path": "a.png"}, {"bytes": None, "path": "b.png"}]
    assert [(one.images, one.names) for one in table(image=records).questions()] == [
        ([b"x"], ["a.png"]),
        ([tmp_path / "b.png"], [f"{tmp_path}/b.png"]),
    ]
    (one,) = table(image=[records]).questions()
    assert one.images == [b"x", tmp_path / "b.png"]
    many = table(image=[f"{n}.png" for n in range(100)])
    assert (many.count(), [one.id.rpartition(":")[2] for one in many.questions()]) == (100, [str(n) for n in range(1, 101)])


def test_what_is_wrong_with_a_file_or_row(table, tmp_path):
    with pytest.raises(BatchError, match=r"t\.parquet has no column image but picture, text\. Name one with --image-column\."):
        table(picture=["a"], text=["b"]).count()
    with pytest.raises(BatchError, match="no column prompt but image. Name one with --prompt-column"):
        ParquetQuestions(table(image=["a"]).path, Columns("image", "prompt", None)).count()
    (tmp_path / "t.parquet").write_bytes(b"no parquet")
    with pytest.raises(BatchError, match="cannot be read as Parquet"):
        ParquetQuestions(tmp_path / "t.parquet", Columns("image", "prompt", "")).count()
    damaged = table(image=[f"{n * 7919 % 1000}.png" for n in range(1000)])
    content = bytearray(damaged.path.read_bytes())
    content[100:600] = b"\xff" * 500
    damaged.path.write_bytes(content)
    *_, last = damaged.questions()
    assert "The rows from here on cannot be read: " in last.error
    text = pyarrow.StringArray.from_buffers(2, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pyarrow.py_buffer(b"a\xff"))
    assert [bool(one.error) for one in table(image=text).questions()] == [False, True]


def test_answers_there_and_back(tmp_path):
    rows = [
        dict.fromkeys(COLUMNS)
        | {"id": str(n), "images": ["é.png", None], "prompt_tokens": n, "seconds_images": n / 8, "answer": "x"}
        for n in range(5000)
    ]
    rows[3] |= {"total": 3, "flag": True, "mixed": "a", "items": [{"a": "é"}], "huge": 1 << 70}
    rows[4] |= {"total": 2.5, "flag": None, "mixed": 7, "nothing": None, "answer": "\ud800"}
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_table(tmp_path / "a.jsonl", tmp_path / "a.parquet")
    found = parquet.read_table(tmp_path / "a.parquet")
    assert found.schema.names == [*COLUMNS, "total", "flag", "mixed", "items", "huge"]
    assert parquet.ParquetFile(tmp_path / "a.parquet").num_row_groups == 2
    third, fourth = found.slice(3, 2).to_pylist()
    assert {name: third[name] for name in found.schema.names[-5:]} == {
        "total": 3.0,
        "flag": True,
        "mixed": "a",
        "items": '[{"a": "é"}]',
        "huge": str(1 << 70),
    }
    assert (fourth["total"], fourth["flag"], fourth["mixed"], fourth["answer"]) == (2.5, None, "7", "?")
    read_table(tmp_path / "a.parquet", tmp_path / "b.jsonl", lambda answer: {"length": len(answer)})
    back = [json.loads(line) for line in Path(tmp_path / "b.jsonl").read_text("utf-8").splitlines()]
    assert back[:3] == [row | {"length": 1} for row in rows[:3]]
    assert not list(tmp_path.glob("*.part"))
