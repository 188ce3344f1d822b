"""`run` with generation options."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from idefics2_onnx.cli import main
from idefics2_onnx.runtime.model import Idefics2

CAT = str(Path("examples/cat.jpg").resolve())


@pytest.fixture(scope="module")
def demo():
    return Idefics2.from_pretrained()


def test_run_takes_any_option(tmp_path, demo, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        return CliRunner().invoke(main, ["run", CAT, "What is it?", "--max-new-tokens", "5", *arguments], catch_exceptions=False)

    expected = demo.generate("What is it?", CAT, max_new_tokens=5, do_sample=True, seed=4, temperature=1.5)
    assert call("-O", "do_sample=true", "-O", "seed=4", "-O", "temperature=1.5").stdout == expected.text + "\n"
    beams = demo.generate("What is it?", CAT, max_new_tokens=5, num_beams=3, num_return_sequences=2)
    several = call("-O", "num_beams=3", "-O", "num_return_sequences=2", "--json")
    assert [answer["token_ids"] for answer in json.loads(several.stdout)] == [answer.token_ids for answer in beams]
    assert call("-O", "num_beams=3").stdout == beams[0].text + "\n"
    stats = call("--stats").stderr
    assert "5 tiles encoded" in stats
    assert "tokens read" in stats
    assert call("-O", "stop_strings=zz").exit_code == 0
    for name in ("nonsense", "prompt", "images"):
        wrong = call("-O", f"{name}=1")
        assert wrong.exit_code == 2
        assert f"no generation option '{name}'" in wrong.stderr
    assert call("-O", "seed").exit_code == 2


def test_run_answers_in_a_given_form(tmp_path, demo, monkeypatch):
    monkeypatch.chdir(tmp_path)
    schema, rule = tmp_path / "schema.json", tmp_path / "rule.lark"
    schema.write_text('{"enum": ["cat", "dog"]}')
    rule.write_text('start: "cat" | "dog"')

    def call(*arguments):
        return CliRunner().invoke(main, ["run", CAT, "What is it?", *arguments], catch_exceptions=False)

    assert json.loads(call("--json-schema", str(schema)).stdout) in ("cat", "dog")
    assert (
        call("--regex", "cat|dog").stdout
        == call("--grammar", str(rule)).stdout
        == demo.generate("What is it?", CAT, regex="cat|dog").text + "\n"
    )
    cut = call("--regex", "[ab]{30}", "--max-new-tokens", "3")
    assert cut.exit_code == 1
    assert "Error: The answer was cut off at 3 tokens, before it was whole by its regex. Raise --max-new-tokens." in cut.stderr
    both = call("--regex", "a", "--json-schema", str(tmp_path / "none"))
    assert both.exit_code == 1
    assert "none cannot be read" in both.stderr
    assert "json_schema and regex were both given" in call("--regex", "a", "--json-schema", str(schema)).stderr
