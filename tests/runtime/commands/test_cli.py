"""The command line: exit codes, streams, and one sentence for every bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from idefics2_onnx.cli import main
from idefics2_onnx.graphs.contract import MANIFEST
from idefics2_onnx.runtime.folder import DEMO
from idefics2_onnx.runtime.model import Idefics2
from PIL import Image

CAT = str(Path("examples/cat.jpg").resolve())


@pytest.fixture
def cli(tmp_path, monkeypatch):
    """Run the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IDEFICS2_ONNX_MODEL", raising=False)

    def run(*arguments, exit_code=0):
        result = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
        assert result.exit_code == exit_code, result.output
        return result

    return run


def error_of(result) -> str:
    """The one sentence or two of an error, after any line that names the model."""
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("Error: ")
    assert line.endswith((".", ")", "'"))  # of a sentence, or of a command to run
    assert result.stdout == ""
    return line


def test_run_streams_on_stdout_and_remarks_on_stderr(cli):
    expected = Idefics2.from_pretrained().generate("What is it?", CAT, max_new_tokens=12)
    result = cli("run", CAT, "What is it?", "--max-new-tokens", 12)
    assert result.stdout == expected.text + "\n"
    assert f"{expected.prompt_tokens} prompt tokens" in result.stderr
    assert "tokens/s" in result.stderr


def test_run_json(cli):
    result = cli("run", CAT, CAT, "Compare", "--max-new-tokens", 3, "--no-split", "--json")
    answer = json.loads(result.stdout)
    assert answer["finish_reason"] == "length"
    assert len(answer["token_ids"]) == 3
    assert answer["text"] == Idefics2.from_pretrained().processor.decode(answer["token_ids"], skip_special_tokens=True)
    assert answer["timings"]["steps"] == 2


def test_raw_prompt_takes_tags_literally(cli):
    result = cli("run", CAT, "<image>Hi", "--raw", "--max-new-tokens", 1, "--json")
    tokens = Idefics2.from_pretrained().processor(text=["<image>Hi"], images=[[Image.open(CAT)]])["input_ids"]
    assert json.loads(result.stdout)["prompt_tokens"] == tokens.size


def test_which_model_answers(cli, tmp_path, monkeypatch, exported):
    shutil.copytree(DEMO, tmp_path / "one")
    assert "Using one." in cli("run", "Hi", "--max-new-tokens", 1).stderr
    monkeypatch.setenv("IDEFICS2_ONNX_MODEL", str(exported("plain")))
    assert "($IDEFICS2_ONNX_MODEL)" in cli("run", "Hi", "--max-new-tokens", 1).stderr
    assert "Using" not in cli("run", "Hi", "--max-new-tokens", 1, "-m", tmp_path / "one").stderr
    monkeypatch.delenv("IDEFICS2_ONNX_MODEL")
    shutil.copytree(DEMO, tmp_path / "two")
    assert "2 model folders here: one, two. Choose one with -m." in error_of(cli("run", "Hi", exit_code=1))


def test_bad_images_in_run(cli, tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "cut.jpg").write_bytes(Path(CAT).read_bytes()[:9000])
    (tmp_path / "text.jpg").write_text("no picture")
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    for name, match in {
        "missing.jpg": "There is no image file missing.jpg.",
        "empty.jpg": "empty.jpg is empty (0 bytes).",
        "cut.jpg": "cut.jpg is damaged or incomplete",
        "text.jpg": "text.jpg is not an image",
        ".": ". is not a file.",
        "dot.png": "1×1 pixels, too small to split in four. Use a larger image, or turn splitting off",
    }.items():
        assert match in error_of(cli("run", name, "What?", exit_code=1))
    assert cli("run", "dot.png", "What?", "--no-split", "--max-new-tokens", 1).stdout


def test_image_with_too_many_pixels(cli, tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    error = error_of(cli("run", "huge.png", "What?", exit_code=1))
    assert "more pixels than the limit of 178,956,970" in error
    assert "--max-image-pixels" in error


def test_max_image_pixels_moves_the_limit(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    Image.new("L", (400, 400)).save(tmp_path / "small.png")
    assert "limit of 100,000" in error_of(cli("run", "small.png", "What?", "--max-image-pixels", 100_000, exit_code=1))
    cli("run", "small.png", "What?", "--max-image-pixels", 160_000, "--max-new-tokens", 1)


def test_bad_folders_in_run(cli, tmp_path):
    (tmp_path / "plain").mkdir()
    broken = shutil.copytree(DEMO, tmp_path / "broken")
    data = bytearray((broken / "decoder.onnx.data").read_bytes())
    data[1000] ^= 1
    (broken / "decoder.onnx.data").write_bytes(data)
    missing = shutil.copytree(DEMO, tmp_path / "missing")
    (missing / "embedding.onnx").unlink()
    for folder, match in (("plain", f"has no {MANIFEST}"), ("broken", "decoder.onnx.data is damaged"), ("missing", "lacks the file embedding.onnx"), ("none", "none is not a folder")):  # fmt: skip
        assert match in error_of(cli("run", CAT, "What?", "-m", folder, exit_code=1))
        assert match in error_of(cli("info", folder, exit_code=1))
        assert match in error_of(cli("verify", folder, exit_code=1))


def test_bad_prompts_and_usage_in_run(cli):
    assert "has 2 <image> but 1 image was given" in error_of(cli("run", CAT, "<image><image>", exit_code=1))
    assert f"The last argument, {CAT}, is a file, so the prompt is missing" in error_of(cli("run", CAT, exit_code=2))
    assert "There is no file gone.jpg, and the prompt is missing" in error_of(cli("run", "gone.jpg", exit_code=2))
    assert "No such option" in error_of(cli("run", CAT, "Hi", "--colour", exit_code=2))
    assert cli("run", "What is this? " * 40, "--max-new-tokens", 1).stdout
    assert "There is no image file" in error_of(cli("run", "x" * 300, "Hi", exit_code=1))
    assert "is not a folder" in error_of(cli("run", "Hi", "-m", "x" * 300, exit_code=1))
    assert "Missing argument" in error_of(cli("run", exit_code=2))
    assert "has no CUDAExecutionProvider" in error_of(cli("run", CAT, "Hi", "--device", "cuda", exit_code=1))


def test_info(cli, exported):
    facts = json.loads(cli("info", exported("window", "fp16"), "--json").stdout)
    assert facts["graphs"]["decoder"]["precision"] == "fp16"
    assert facts["prompt"] == {"tokens_per_image": 9, "tokens_per_split_image": 45, "cache_bytes_per_token": 2 * 2 * 2 * 16 * 2}
    text = cli("info", exported("window", "fp16")).stdout
    assert f"{facts['model']['num_parameters']:,}" in text
    assert "9 tokens, 45 when split" in text
    assert "301 tokens, 77.1 kB of cache" in text
    assert "512 tokens, window 7" in text


@pytest.mark.usefixtures("compared_here")
def test_export_run_and_verify(cli, checkpoint, tmp_path):
    """The documented sequence: export here, then run with the folder just made."""
    exported = cli("export", checkpoint("plain"), "--fp16")
    assert exported.stdout == "plain-fp16\n"
    assert "decoder.onnx (" in exported.stderr
    assert "Using plain-fp16." in cli("run", CAT, "What is it?", "--max-new-tokens", 2).stderr
    assert "decoder.onnx: " in cli("verify").stdout
    against = cli("verify", "plain-fp16", "--against", checkpoint("plain")).stdout
    assert "decoder.onnx (" in against
    assert "already exists" in error_of(cli("export", checkpoint("plain"), exit_code=1))
    assert "neither a folder nor a hub id" in error_of(cli("export", "nothing", exit_code=1))


def test_help_names_every_command(cli):
    text = cli("--help").stdout
    assert all(command in text for command in ("export", "info", "run", "verify"))


@pytest.mark.parametrize("value", ["[" * 100_000, '{"a":' * 50_000, "9" * 10_000, "\udcff", ""])
def test_option_values_that_are_no_json_are_text(value, cli):
    assert error_of(cli("run", "Hi", "-O", f"top_p={value}", exit_code=1)).startswith("Error: ")
