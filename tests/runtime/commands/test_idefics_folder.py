"""The same commands on an IDEFICS folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from idefics2_onnx.cli import main
from idefics2_onnx.runtime.commands.output import as_bytes

CAT = str(Path("examples/cat.jpg").resolve())


@pytest.fixture
def say(exported):
    """What a command prints about a folder."""

    def run(*arguments: str, name: str = "idefics", stdin: str | None = None, fails: bool = False) -> str:
        given = [str(exported(name)) if argument == "FOLDER" else argument for argument in arguments]
        result = CliRunner().invoke(main, given, input=stdin)
        assert (result.exit_code != 0) == fails, result.output
        return result.output

    return run


def test_run_writes_turns_or_completes_text(say, model):
    options = ("-m", "FOLDER", "--max-new-tokens", "6", "--json")
    for name in ("idefics", "idefics_base"):
        for arguments in (("--no-split",), ("-O", "num_beams=2")):
            found = json.loads(
                next(line for line in say("run", CAT, "This is", *options, *arguments, name=name).splitlines() if line[:1] == "{")
            )
            beams = {"num_beams": 2} if "-O" in arguments else {}
            assert found["token_ids"] == model(name).generate("This is", CAT, max_new_tokens=6, **beams).token_ids


def test_chat(say, model):
    said = "".join(say("chat", CAT, "-m", "FOLDER", "--max-new-tokens", "4", stdin="What?\nAnd?\n/stats\n").split())
    chat = model("idefics").chat(max_new_tokens=4)
    for text, images in (("What?", [CAT]), ("And?", [])):
        assert "".join(chat.send(text, images).text.split()) in said  # a random model writes ends of lines of all kinds
    assert "tokensread" in said


def test_chat_goes_on_with_a_base_models_text(say, model):
    """The space that is typed in front of a line parts it from the answer."""
    lines, chat = ("This is", " and ", "  /stats"), model("idefics_base").chat(max_new_tokens=4)
    said = "".join(say("chat", CAT, "-m", "FOLDER", "--max-new-tokens", "4", name="idefics_base", stdin="\n".join(lines)).split())
    for text, images in (("This is", [CAT]), (" and", [])):
        assert "".join(chat.send(text, images).text.split()) in said
    assert "tokensread" in said


def test_raw_prompts_of_a_base_model(say, model):
    options = ("-m", "FOLDER", "--max-new-tokens", "4", "--json")
    found = [
        json.loads(next(line for line in say("run", CAT, *said, *options, name="idefics_base").splitlines() if line[:1] == "{"))
        for said in (("<image>This is", "--raw"), ("This is",))
    ]
    expected = model("idefics_base").generate("<image>This is", CAT, raw=True, max_new_tokens=4)
    assert [one["token_ids"] for one in found] == [expected.token_ids] * 2


def test_info_says_what_an_image_takes(say, model):
    said, facts = say("info", "FOLDER"), json.loads(say("info", "FOLDER", "--json"))
    assert "cross       fp32" in said
    assert f"image       1 token, and {as_bytes(facts['prompt']['cache_bytes_per_image'])} of keys and values" in said
    assert "an image and 256 tokens of text: 257 tokens" in said
    cache = model("idefics").engine.new_cache(1, 1)
    assert "tokens_per_split_image" not in facts["prompt"]
    assert facts["prompt"]["cache_bytes_per_image"] + facts["prompt"]["cache_bytes_per_token"] == cache.nbytes


def test_verify_and_doctor(say):
    assert "decoder.onnx: 524 finite values" in say("verify", "FOLDER")
    assert "cross.onnx" in say("doctor", "FOLDER")


def test_preview(say, tmp_path):
    facts = json.loads(say("preview", CAT, "-m", "FOLDER", "--json"))
    assert facts["tokens"] == 3
    assert [tile["size"] for tile in facts["images"][0]["tiles"]] == [{"height": 28, "width": 28}]
    say("preview", CAT, "-m", "FOLDER", "--no-split", "-o", str(tmp_path / "seen.png"))
    assert (tmp_path / "seen.png").stat().st_size


def test_bench(say):
    arguments = ("--rounds", "1", "--prompt-tokens", "8", "--new-tokens", "2", "--batch", "1", "--image", "40x30", "--json")
    (line,) = [line for line in say("bench", "FOLDER", *arguments).splitlines() if line[:1] == "{"]
    found = json.loads(line)
    assert [(image["tiles"], image["tokens"]) for image in found["images"]] == [(1, 1)]
