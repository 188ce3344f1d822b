"""The plug-in, as llm's command line and its Python interface use it (`make test-llm`)."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import llm
import pytest
from click.testing import CliRunner
from idefics2_onnx import Idefics, Idefics2, load
from idefics2_onnx.runtime.folder import DEMO
from llm.cli import cli
from llm.parts import ToolResultPart
from llm_idefics2_onnx import VARIABLE, generation_options
from PIL import Image

EXAMPLES = Path(__file__).parents[3] / "examples"
SHAPES, SIGN = EXAMPLES / "shapes.png", EXAMPLES / "sign.png"
QUESTION = "What is in the picture?"
WRITE = """
import sys
from pathlib import Path
from idefics2_onnx.demo.random_idefics import tiny_config, write_checkpoint
from idefics2_onnx.export import export_model
write_checkpoint(Path(sys.argv[1]), tiny_config())
export_model(sys.argv[1], sys.argv[2], "fp32", verify="never")
"""
ANSWER = "A red circle at the top left, a blue star on the right and a green square at the bottom."


@pytest.fixture(autouse=True)
def own_settings(tmp_path, monkeypatch):
    """Neither the logs nor the defaults of whoever runs the tests."""
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "llm"))
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture(scope="module")
def reference():
    with Idefics2.from_pretrained() as model:
        yield model


@pytest.fixture(scope="module")
def idefics(tmp_path_factory):
    """A small folder of the first model, with turns; torch, which makes it, is in an environment of its own."""
    exporter = os.environ.get("EXPORTER")
    if exporter is None:
        pytest.skip("EXPORTER names no Python with idefics2-onnx[export]")
    folder = tmp_path_factory.mktemp("idefics")
    subprocess.check_call([exporter, "-c", WRITE, folder / "checkpoint", folder / "model"])
    return folder / "model"


def run(*arguments: object):
    return CliRunner().invoke(cli, [*map(str, arguments)])


def item(text: str, images: int = 0) -> list[dict[str, str]]:
    return [*[{"type": "image"}] * images, {"type": "text", "text": text}]


def test_llm_finds_the_model_without_opening_it():
    code = "import sys, llm; llm.get_model('idefics2'); print({'onnxruntime', 'idefics2_onnx'} & {*sys.modules})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"
    listed = run("models", "--options", "-m", "idefics2").output
    assert "idefics2-onnx (aliases: idefics2)" in listed
    assert "max_tokens: int" in listed
    assert "image/x-ms-bmp" in listed


def test_two_turns_on_the_command_line_count_the_first_ones_picture(reference):
    first = run("-m", "idefics2", QUESTION, "-a", SHAPES, "-u")
    assert first.stdout == f"{ANSWER}\n"
    assert "Token usage: 97 input, 23 output" in first.stderr
    assert "Using the demo model" in first.stderr
    second = run("-c", "What is in this one?", "-a", SIGN)
    said = [
        {"role": "user", "content": item(QUESTION, 1)},
        {"role": "assistant", "content": item(ANSWER)},
        {"role": "user", "content": item("What is in this one?", 1)},
    ]
    assert second.stdout == f"{reference.generate(said, [SHAPES, SIGN]).text}\n"


def test_a_conversation_reads_only_what_is_new(reference):
    conversation = llm.get_model("idefics2").conversation()
    conversation.prompt(QUESTION, attachments=[llm.Attachment(path=str(SHAPES))]).text()
    second = conversation.prompt("What colour is the star?")
    said = [
        {"role": "user", "content": item(QUESTION, 1)},
        {"role": "assistant", "content": item(ANSWER)},
        {"role": "user", "content": item("What colour is the star?")},
    ]
    expected = reference.generate(said, [SHAPES])
    assert second.text() == expected.text
    assert second.usage().input == expected.prompt_tokens
    assert second.usage().output == len(expected.token_ids)
    assert second.usage().details["input_reused"] > 60


def test_pieces_come_as_they_are_made_and_join_to_the_answer():
    model = llm.get_model("idefics2")
    pieces = list(model.prompt(QUESTION, attachments=[llm.Attachment(path=str(SHAPES))]))
    assert len(pieces) > 5
    assert "".join(pieces) == ANSWER
    assert list(model.prompt(QUESTION, attachments=[llm.Attachment(path=str(SHAPES))], stream=False)) == [ANSWER]


def test_a_stream_that_is_left_leaves_the_model_usable():
    model = llm.get_model("idefics2")
    attachments = [llm.Attachment(content=SHAPES.read_bytes())]
    begun = iter(model.prompt(QUESTION, attachments=attachments))
    next(begun)
    begun.close()
    assert model.prompt(QUESTION, attachments=attachments).text() == ANSWER


def test_pictures_as_bytes_and_from_standard_input():
    assert llm.get_model("idefics2").prompt(QUESTION, attachments=[llm.Attachment(content=SHAPES.read_bytes())]).text() == ANSWER
    run_here = CliRunner().invoke(cli, ["-m", "idefics2", QUESTION, "-a", "-"], input=SHAPES.read_bytes())
    assert run_here.stdout == f"{ANSWER}\n"


@pytest.mark.parametrize("name", ["grey.pgm", "black.pbm"])
def test_the_other_kinds_of_ppm(name, tmp_path, reference):
    Image.open(SHAPES).convert("1" if name == "black.pbm" else "L").save(tmp_path / name)
    expected = reference.generate(QUESTION, [tmp_path / name]).text
    assert run("-m", "idefics2", QUESTION, "-a", tmp_path / name).stdout == f"{expected}\n"


def test_a_url_that_the_user_gave_is_downloaded_and_a_url_in_a_prompt_is_not():
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            asked.append(self.command)

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=EXAMPLES))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/shapes.png"
    try:
        run("-m", "idefics2", f"What is in {url}?", "-o", "max_tokens", 4)
        assert asked == []
        assert run("-m", "idefics2", QUESTION, "-a", url).stdout == f"{ANSWER}\n"
        assert "GET" in asked
    finally:
        server.shutdown()
        server.server_close()


def test_the_folder_comes_from_the_option_then_the_variable_then_the_demo(tmp_path, monkeypatch):
    own, other = tmp_path / "own", tmp_path / "other"
    shutil.copytree(DEMO, own)
    monkeypatch.setenv(VARIABLE, str(other))
    assert run("-m", "idefics2", QUESTION, "-o", "folder", own, "-a", SHAPES).output == f"{ANSWER}\n"
    refused = run("-m", "idefics2", QUESTION)
    assert refused.exit_code == 1
    assert refused.output.startswith(f"Error: {other} is not a folder.")
    shutil.copytree(DEMO, other)
    assert run("-m", "idefics2", QUESTION, "-a", SHAPES).output == f"{ANSWER}\n"
    run("models", "options", "set", "idefics2", "folder", tmp_path / "third")
    assert str(tmp_path / "third") in run("-m", "idefics2", QUESTION).output


def test_a_folder_of_the_first_model_answers_too(idefics):
    options = ("-o", "folder", idefics, "-o", "max_tokens", 5)
    with load(idefics) as model:
        assert isinstance(model, Idefics)
        said = [{"role": "user", "content": item(QUESTION, 1)}]
        first = model.generate(said, [SHAPES], max_new_tokens=5)
        assert run("-m", "idefics2", QUESTION, "-a", SHAPES, *options).stdout == f"{first.text}\n"
        conversation = llm.get_model("idefics2").conversation()
        chosen = {"folder": str(idefics), "max_tokens": 5}
        answer = conversation.prompt(QUESTION, attachments=[llm.Attachment(path=str(SHAPES))], **chosen).text()
        second = conversation.prompt("And this?", attachments=[llm.Attachment(path=str(SIGN))], **chosen)
        said += [{"role": "assistant", "content": item(answer)}, {"role": "user", "content": item("And this?", 1)}]
        expected = model.generate(said, [SHAPES, SIGN], max_new_tokens=5)
        assert second.text() == expected.text
        assert second.usage().input == expected.prompt_tokens
        assert second.usage().details["input_reused"] > 40
    refused = run("-m", "idefics2", QUESTION, "-a", SHAPES, *options, "-o", "split", "true")
    assert refused.exit_code == 1
    assert "sees each image whole" in refused.output


def test_threads_may_ask_of_different_folders(tmp_path):
    shutil.copytree(DEMO, tmp_path / "own")
    model = llm.get_model("idefics2")

    def answer(folder):
        return model.prompt(QUESTION, attachments=[llm.Attachment(path=str(SHAPES))], folder=folder).text()

    with ThreadPoolExecutor(2) as threads:
        assert set(threads.map(answer, [None, str(tmp_path / "own")] * 4)) == {ANSWER}


def test_options_have_their_names_in_generate(reference):
    options = llm.get_model("idefics2").Options
    assert generation_options(options()) == {}
    assert generation_options(options(temperature=0)) == {"do_sample": False}
    assert generation_options(options(temperature=0, top_p=0.5, top_k=3, seed=1)) == {"do_sample": False, "seed": 1}
    assert generation_options(options(max_tokens=5, temperature=0.8, seed=1, stop="end", split=True)) == {
        "max_new_tokens": 5,
        "temperature": 0.8,
        "do_sample": True,
        "seed": 1,
        "stop_strings": ["end"],
        "do_image_splitting": True,
    }
    drawn = run("-m", "idefics2", QUESTION, "-a", SHAPES, "-o", "temperature", 2, "-o", "seed", 3, "-o", "max_tokens", 6)
    expected = reference.generate(QUESTION, [SHAPES], do_sample=True, temperature=2.0, seed=3, max_new_tokens=6)
    assert drawn.stdout == f"{expected.text}\n"


def test_a_system_prompt_is_the_first_message(reference):
    said = [{"role": "system", "content": item("Be short.")}, {"role": "user", "content": item(QUESTION, 1)}]
    answer = run("-m", "idefics2", QUESTION, "-s", "Be short.", "-a", SHAPES)
    assert answer.stdout == f"{reference.generate(said, [SHAPES]).text}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((QUESTION, "-o", "max_tokens", 10**9), "1000000000"),
        ((QUESTION, "-o", "device", "abacus"), "abacus"),
        ((QUESTION, "-o", "temperature", -1), "greater than or equal to 0"),
        (("",), "The prompt is empty."),
        ((QUESTION, "-o", "folder", "./owner/name"), "./owner/name is not a folder."),
        ((QUESTION, "-o", "folder", "~no-such-user/model"), "~no-such-user/model is not a folder."),
        (("What is <image>?",), "The prompt has 1 <image> but 0 images were given."),
        ((QUESTION, "-a", EXAMPLES / "questions.json"), "does not support attachments of type"),
    ],
)
def test_what_does_not_go_is_a_sentence(arguments, sentence):
    refused = run("-m", "idefics2", *arguments)
    assert refused.exit_code == 1
    assert refused.output.count("Error: ") == 1
    assert sentence in refused.output


def test_a_picture_that_is_damaged_or_gone_raises_llms_own_error(tmp_path):
    model = llm.get_model("idefics2")
    with pytest.raises(llm.ModelError, match="is damaged at its very beginning"):
        model.prompt(QUESTION, attachments=[llm.Attachment(type="image/png", content=b"no picture")]).text()
    with pytest.raises(llm.ModelError, match="There is no image file"):
        model.prompt(QUESTION, attachments=[llm.Attachment(type="image/png", path=str(tmp_path / "gone.png"))]).text()


def test_a_conversation_with_tools_is_refused():
    messages = [llm.Message(role="tool", parts=[ToolResultPart(name="clock", output="12")])]
    with pytest.raises(llm.ModelError, match="a tool's call or result"):
        llm.get_model("idefics2").prompt(QUESTION, messages=messages).text()
