"""The file of answers: what is kept, cut off, refused."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path

import pytest
from idefics2_onnx.runtime.batch.answers import Answers
from idefics2_onnx.runtime.batch.question import Question
from idefics2_onnx.runtime.errors import BatchError, ImageError
from idefics2_onnx.runtime.generation.answer import Generation
from idefics2_onnx.runtime.generation.mapping import Outcome

MADE = {"--prompt": "What?", "model": "1", "model folder": "here"}


def opened(path: Path, restart: bool = False, **changes: str) -> Answers:
    return Answers(path, MADE | changes, restart, lambda answer: {})


def outcome(name: str, text: str | None = "yes") -> Outcome[Question]:
    answer = None if text is None else Generation(text, [1], "stop", 5)
    return Outcome(0, Question(name, "What?"), answer, None if text else ImageError(f"{name} is no image. Give one."))


def rows_of(path: Path) -> list[tuple[str, str | None, str | None]]:
    return [(row["id"], row["answer"], row["error"]) for row in map(json.loads, path.read_text("utf-8").splitlines())]


def test_rows_are_kept_and_gone_on_with(tmp_path):
    path = tmp_path / "a.jsonl"
    with opened(path) as answers:
        answers.append(outcome("a", "é"))
        answers.append(outcome("b", None))
    with opened(path) as answers:
        assert (answers.rows, answers.errors, "a" in answers.ids, "c" in answers.ids) == (2, 1, True, False)
        answers.append(outcome("c"))
    assert rows_of(path) == [("a", "é", None), ("b", None, "b is no image. Give one."), ("c", "yes", None)]


@pytest.mark.parametrize("end", [b'{"id": "c", "answ', b'{"id": "c"}\n', b"\0" * 4096, b"\0\0\n", b'{"id": "c", "error": null}'])
def test_a_last_line_that_is_not_whole_is_cut_off(end, tmp_path):
    path = tmp_path / "a.jsonl"
    with opened(path) as answers:
        answers.append(outcome("a"))
    whole = path.read_bytes()
    path.write_bytes(whole + end)
    with opened(path) as answers:
        assert answers.rows == 1
    assert path.read_bytes() == whole


def test_what_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("mine\n")
    for restart in (False, True):
        with pytest.raises(BatchError, match="a.jsonl is there and was not made by this command. Name another file with -o."):
            opened(path, restart)
    assert path.read_text() == "mine\n"
    path.unlink()
    with opened(path) as answers:
        answers.append(outcome("a"))
    for change, match in (
        ({"--prompt": "Why?"}, 'made with --prompt "What\\?", not "Why\\?"'),
        ({"max_new_tokens": 5}, "made with max_new_tokens left out, not 5"),
        ({"model": "2"}, "made with another model, here"),
    ):
        with pytest.raises(BatchError, match=match + r"\. Name another file with -o, or begin it anew with --restart\."):
            opened(path, **change)
    with opened(path, **{"model folder": "moved"}) as answers:
        assert answers.rows == 1
    path.write_bytes(b"{}\n" + path.read_bytes())
    with pytest.raises(BatchError, match=r"Line 1 of .*a\.jsonl is no row of this command"):
        opened(path)
    with opened(path, restart=True, **{"--prompt": "Why?"}) as answers:
        assert answers.rows == 0
    (tmp_path / "a.jsonl.recipe").write_text("{")
    path.write_text("x")
    with pytest.raises(BatchError, match="is damaged, and says no more how"):
        opened(path)
    with pytest.raises(BatchError, match="cannot be written .No such file or directory"):
        opened(tmp_path / "none" / "a.jsonl")


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_two_processes_do_not_share_a_file(tmp_path):
    with opened(tmp_path / "a.jsonl"), pytest.raises(BatchError, match="Another process is writing"):
        opened(tmp_path / "a.jsonl")
    opened(tmp_path / "a.jsonl").__exit__()


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    with opened(tmp_path / "a.jsonl") as answers:
        answers.append(outcome("a"))

        class Full:
            def write(self, _: bytes) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

            def close(self) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

        answers._file.close()
        answers._file = Full()
        with pytest.raises(BatchError, match=r"cannot be written \(No space left on device\)\. Make room .*: its rows are kept"):
            answers.append(outcome("b"))


def test_a_table_takes_the_rows_place_and_is_gone_on_with(tmp_path):
    pytest.importorskip("pyarrow")
    path, rows = tmp_path / "a.parquet", tmp_path / "a.parquet.jsonl"
    for names in ("ab", "c", ""):
        with opened(path) as answers:
            before = [] if names == "ab" else ["a", "b", "c"][: answers.rows]
            assert all(name in answers.ids for name in before)
            for name in names:
                answers.append(outcome(name))
            assert [row[0] for row in rows_of(rows)] == [*before, *names]
            answers.finish()
        assert not rows.exists()
    with opened(path) as answers:
        whole = rows.read_bytes()
        answers.finish()
    rows.write_bytes(whole[:-1])  # ended between the table and the rows' removal
    (tmp_path / "a.parquet.part").write_bytes(b"half of it")
    with opened(path) as answers:
        assert answers.rows == 2
        answers.append(outcome("c"))
        answers.finish()
    with opened(path) as answers:
        assert answers.rows == 3
    rows.unlink()
    path.write_bytes(b"damaged")
    with pytest.raises(BatchError, match=r"a\.parquet is damaged: .*begin anew: --restart\."):
        opened(path)
    with opened(path, restart=True) as answers:
        assert answers.rows == 0
        assert not path.exists()
