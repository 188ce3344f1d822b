"""`batch`: a row for each picture, whatever ends it in between."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from idefics2_onnx.cli import main
from idefics2_onnx.demo.tasks import case
from idefics2_onnx.runtime.batch import arrow
from idefics2_onnx.runtime.model import Idefics2
from idefics2_onnx.runtime.sampling.token_chooser import TokenChooser

QUESTION = "What is in the picture?"
TIMES = ("seconds_waiting", "seconds_images", "seconds_prompt", "seconds_answer")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder with ten pictures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IDEFICS2_ONNX_MODEL", raising=False)
    Path("photos").mkdir()
    for number in range(10):
        case("shapes", "held-out", number).turns[0].images[0].save(f"photos/{number}.png")
    return tmp_path


def batch(*arguments, exit_code=0):
    result = CliRunner().invoke(main, ["batch", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == exit_code, result.output
    return result


def rows(name: str = "out.jsonl") -> list[dict]:
    found = [json.loads(line) for line in Path(name).read_text("utf-8").splitlines()]
    return [{column: value for column, value in row.items() if column not in TIMES} for row in found]


PHOTOS = ("photos", "-o", "out.jsonl", "--prompt", QUESTION)


def test_a_row_for_each_picture(place):
    result = batch(*PHOTOS)
    assert result.stdout == "out.jsonl\n"
    demo = Idefics2.from_pretrained()
    alone = [demo.generate(QUESTION, f"photos/{number}.png") for number in range(10)]
    expected = [
        {
            "id": f"photos/{number}.png",
            "images": [f"photos/{number}.png"],
            "prompt": QUESTION,
            "answer": answer.text,
            "prompt_tokens": answer.prompt_tokens,
            "new_tokens": len(answer.token_ids),
            "finish_reason": answer.finish_reason,
            "error": None,
        }
        for number, answer in enumerate(alone)
    ]
    assert rows() == expected
    written = json.loads(Path("out.jsonl").read_text().splitlines()[0])
    assert all(written[name] > 0 for name in TIMES)
    before = Path("out.jsonl").read_bytes()
    assert "Running on" not in batch(*PHOTOS).stderr  # nothing is left: no model is opened
    assert Path("out.jsonl").read_bytes() == before
    case("shapes", "held-out", 10).turns[0].images[0].save("photos/10.png")
    batch(*PHOTOS, "photos/3.png", "out.jsonl", "*.recipe")
    assert [row["id"] for row in rows()] == [row["id"] for row in expected] + ["photos/10.png"]
    batch(*PHOTOS, "--unordered", "--restart", "--batch-size", 3)
    assert sorted(row["answer"] for row in rows() if row["id"] != "photos/10.png") == sorted(answer.text for answer in alone)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT], ids=lambda sent: sent.name)
def test_it_goes_on_after_it_was_ended(place, sent):
    batch("photos", "-o", "whole.jsonl", "--prompt", QUESTION)
    command = [sys.executable, "-m", "idefics2_onnx", "batch", *PHOTOS, "--batch-size", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wanted = random.randint(1, 8)
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if Path("out.jsonl").exists() and Path("out.jsonl").read_bytes().count(b"\n") >= wanted:
            break
        time.sleep(0.002)
    process.send_signal(sent)
    said = process.communicate()[1]
    if sent == signal.SIGINT and process.returncode == 1:
        assert f"Stopped: {len(rows())} rows are in out.jsonl. Run the same command again to go on.\n" in said
    left = Path("out.jsonl").read_bytes()
    batch(*PHOTOS)
    assert rows() == rows("whole.jsonl")
    assert Path("out.jsonl").read_bytes().startswith(left[: left.rfind(b"\n") + 1])


def test_what_is_wrong_with_a_row_is_its_own(place):
    Path("photos/3.png").write_bytes(b"no picture")
    lines = [{"image": "0.png"}, {"image": "3.png"}, {"image": ["1.png", "2.png"], "prompt": "What changed?"}, {"image": []}]
    Path("photos/t.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n{\n")
    result = batch("photos/t.jsonl", *PHOTOS[1:], exit_code=1)
    assert "Error: 2 of 5 rows have an error in place of an answer. See their column error." in result.stderr
    assert [bool(row["error"]) for row in rows()] == [False, True, False, False, True]
    assert rows()[1]["error"].startswith("photos/3.png is not an image")
    assert [row["images"] for row in rows()[2:4]] == [["photos/1.png", "photos/2.png"], []]
    assert batch("photos/t.jsonl", *PHOTOS[1:], exit_code=1).stderr.count("2 of 5 rows") == 1


def test_a_failing_device_leaves_questions_for_the_next_run(place, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(TokenChooser, "choose", lambda *_: 1 / 0)
        patch.setattr(TokenChooser, "takes_likeliest", False)
        result = batch(*PHOTOS, exit_code=1)
        assert "Error: 10 questions were not answered: division by zero. Run the same command again" in result.stderr
    assert rows() == []
    batch(*PHOTOS)
    assert len(rows()) == 10


def test_usage(place, monkeypatch):
    assert "ends in neither .jsonl nor .parquet" in batch("photos", "-o", "out.csv", exit_code=2).stderr
    assert "has no prompt beside its pictures" in batch("photos", "-o", "out.jsonl", exit_code=1).stderr
    Path("empty.jsonl").touch()
    assert "The inputs hold no questions." in batch("empty.jsonl", "-o", "out.jsonl", exit_code=1).stderr
    assert "num_beams is 2, but one answer is given" in batch(*PHOTOS, "-O", "num_beams=2", exit_code=1).stderr
    assert not Path("out.jsonl").read_bytes()
    batch("photos/1.png", *PHOTOS[1:], "--max-new-tokens", 1)
    assert "made with max_new_tokens 1, not left out" in batch(*PHOTOS, exit_code=1).stderr
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    expected = r"Error: Parquet files need pyarrow, which is not installed. Run: pip install '[^']*\[parquet\]'"
    for arguments in ((*PHOTOS[:2], "out.parquet", *PHOTOS[3:]), ("t.parquet", *PHOTOS[1:])):
        Path("t.parquet").touch()
        error = batch(*arguments, exit_code=1).stderr.splitlines()[-1]
        assert re.fullmatch(expected, error), error


def test_parquet_in_and_out(place):
    pyarrow, parquet = arrow.arrow()
    content = [Path(f"photos/{number}.png").read_bytes() for number in range(4)]
    table = pyarrow.table({"picture": [{"bytes": each, "path": None} for each in content], "question": [QUESTION] * 4})
    parquet.write_table(table, "in.parquet")
    given = ("in.parquet", "-o", "out.parquet", "--image-column", "picture", "--prompt-column", "question")
    batch(*given)
    demo = Idefics2.from_pretrained()
    found = parquet.read_table("out.parquet")
    assert found["answer"].to_pylist() == [demo.generate(QUESTION, each).text for each in content]
    assert found["id"].to_pylist() == [f"in.parquet:{n}" for n in (1, 2, 3, 4)]
    assert sorted(path.name for path in place.iterdir()) == ["in.parquet", "out.parquet", "out.parquet.recipe", "photos"]
    batch(*given)  # nothing is left
    assert parquet.read_table("out.parquet") == found


def test_a_schema_makes_columns_and_is_part_of_what_rows_are_made_with(place):
    examples = Path(__file__).parents[3] / "examples"
    schema = json.loads((examples / "receipt-schema.json").read_text())
    Path("schema.json").write_text(json.dumps(schema))
    asked = (examples / "receipt.png", "-o", "out.jsonl", "--prompt", "Give the receipt as JSON.", "--json-schema", "schema.json")
    batch(*asked)
    (row,) = rows()
    assert {name: row[name] for name in schema["required"]} == json.loads(row["answer"])
    batch(*asked)  # goes on with nothing
    schema["required"] = []
    Path("schema.json").write_text(json.dumps(schema))
    assert "was made with json_schema" in batch(*asked, exit_code=1).stderr
