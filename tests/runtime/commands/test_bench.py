"""`bench`: what it measures, and sizes that are none."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from idefics2_onnx.cli import main


def test_bench_command_measures_what_was_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["bench", "--rounds", "1", "--image", "60x80", "--prompt-tokens", "5", "--batch", "2", "--new-tokens", "4"]
    result = CliRunner().invoke(main, [*arguments, "--json", "--plot", "speed.png"], catch_exceptions=False)
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert [(i["width"], i["height"], i["tiles"]) for i in found["images"]] == [(60, 80, 1), (60, 80, 5)]
    (text,) = found["texts"]
    assert (text["batch"], text["prompt_tokens"], text["new_tokens"]) == (2, 5, 4)
    assert text["tokens_per_second"] == pytest.approx(2 / text["seconds_per_token"])
    assert (tmp_path / "speed.png").stat().st_size > 5000
    table = CliRunner().invoke(main, arguments, catch_exceptions=False).stdout
    assert "60×80" in table
    for wrong, words in [
        ("60", "'60' is not WIDTHxHEIGHT"),
        ("0x5", "'0x5' is not"),
        ("²x3", "is not"),
        ("400000x4", "is not"),
        ("99999x99999", "more pixels than the 178,956,970"),
    ]:
        result = CliRunner().invoke(main, ["bench", "--image", wrong])
        assert result.exit_code == 2
        assert words in result.stderr
    result = CliRunner().invoke(main, ["bench", "--prompt-tokens", "5000", "--image", "30x30", "--rounds", "1"])
    assert result.exit_code == 1
    assert "2048 positions, fewer than a prompt of 5000" in result.stderr
