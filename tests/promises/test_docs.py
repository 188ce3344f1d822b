"""The documents: their code runs, and what they name exists.

Python blocks of one document run one after another in one namespace, with the demo model in the real one's place. Of blocks for a
shell, lines of this package's command line run in this process; the others are held against what they name. Commands that export,
measure or need another device are parsed only.
"""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner
from idefics2_onnx import Idefics2, __version__
from idefics2_onnx.cli import main
from idefics2_onnx.runtime.commands.options import options_of, pairs_of
from idefics2_onnx.runtime.devices.gpu_options import GpuOptions
from idefics2_onnx.runtime.folder import DEMO
from idefics2_onnx.runtime.sampling import generation_options
from idefics2_onnx.runtime.sampling.generation_options import DEFAULT_MAX_NEW_TOKENS, GenerationOptions
from live_server import live
from PIL import Image

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").is_file())
RUN = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
BESIDE_CODE = [
    "demo/README.md",
    "examples/c/README.md",
    "examples/javascript/README.md",
    "examples/frozen/README.md",
    "examples/serving/README.md",
    "examples/triton/README.md",
    "integrations/llm/README.md",
    "integrations/optimum/README.md",
]
READ = [*RUN, "CHANGELOG.md", *BESIDE_CODE, "tests/support/golden_files/README.md"]
NOT_RUN = re.compile(r"<!-- not run: (.+) -->")
MOST_NOT_RUN = 3
MODEL_NAMES = ("idefics2-8b-fp16", "idefics2-8b-int8")
OLDER = "idefics-9b-instruct-fp16"
SERVER = "http://127.0.0.1:8000"
SHELL, PYTHON, TEXT = ("sh", "console", "bash"), ("python",), ("", "text", "ini")
FOREIGN = {
    "--no-deps",
    "--collect-data",
    "--noconfirm",
    "--name",
    "--exclude-module",
    "--strip",
    "--add-data",
    "--task",
    "--dtype",
    "--build",
}
"""Options of pip, PyInstaller, optimum-cli and CMake."""
OTHERS = ("", "git", "cd", "export", ".", "dist/app/app", "llm", "optimum-cli", "pyinstaller", "serve")
"""Programs that documents call and the tests do not: `make test-integrations`, `test-frozen` and `test-scale` do."""
FILES = [
    path.relative_to(ROOT)
    for path in ROOT.rglob("*")
    if not {".git", "build", "__pycache__", "node_modules"} & {*path.relative_to(ROOT).parts}
    and not path.relative_to(ROOT).parts[0].startswith((".venv", ".matrix"))
    and path.is_file()
]


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    language: str
    line: int
    """Of its first line, from 1."""
    text: str
    reason: str | None
    """Why it is not run."""


def blocks(document: str) -> Iterator[Block]:
    lines = (ROOT / document).read_text("utf-8").splitlines()
    start = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
            continue
        above = next((own for own in reversed(lines[:start]) if own.strip()), "")
        marked = NOT_RUN.fullmatch(above.strip())
        yield Block(lines[start][3:].strip(), start + 2, "\n".join(lines[start + 1 : number]) + "\n", marked and marked[1])
        start = None
    assert start is None, f"{document}: a block is not closed"


def prose(document: str) -> str:
    """A document without its blocks."""
    return re.sub(r"^```.*?^```$", "", (ROOT / document).read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder with pictures under the names that documents give them, and the demo model where one is named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IDEFICS2_ONNX_MODEL", raising=False)
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("node_modules"))
    Image.open(ROOT / "examples" / "shapes.png").convert("RGB").save("photo.jpg")
    Image.open(ROOT / "examples" / "sign.png").convert("RGB").save("sign.jpg")
    monkeypatch.setattr(generation_options, "DEFAULT_MAX_NEW_TOKENS", 40)  # a small model may ramble
    for name in ("my-adapter", "my-checkpoint"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def address():
    """Of a server with the demo model, which begins when it is asked for."""
    with ExitStack() as stack:
        yield cache(lambda: stack.enter_context(live(Idefics2.from_pretrained())).address)


@pytest.mark.parametrize("document", RUN)
def test_blocks_run(document, folder, request, address):
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(document):
        place = f"{document}:{block.line}"
        if block.reason:
            continue
        assert block.language in (*SHELL, *PYTHON, *TEXT), f"{place}: a block of {block.language!r} is not known here"
        for name in (*MODEL_NAMES, OLDER):  # one at a time: `run` takes the only one that is here
            (folder / name).unlink(missing_ok=True)
        if block.language in PYTHON and OLDER in block.text:
            (folder / OLDER).symlink_to(request.getfixturevalue("exported")("idefics"), target_is_directory=True)
        else:
            named = [name for name in MODEL_NAMES if name in block.text] or MODEL_NAMES[:1]
            (folder / named[0]).symlink_to(DEMO, target_is_directory=True)
        if SERVER in block.text:
            block = replace(block, text=block.text.replace(SERVER, address()))
        if block.language in PYTHON:
            exec(compile("\n" * (block.line - 1) + block.text, str(ROOT / document), "exec"), names)
        elif block.language in SHELL:
            for command, shown in commands(block.text):
                run(command, shown, place)


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Each command, and what the document says it prints; in blocks with a prompt, `$ `, the other lines are that."""
    prompted = re.search(r"^\$ ", text, re.MULTILINE)
    command, shown = "", ""
    for line in text.splitlines():
        if prompted and not line.startswith("$ "):
            shown += line + "\n"
            continue
        if command:
            yield command, shown
        command, _, comment = line.removeprefix("$ ").partition(" #")
        shown = comment.strip() + "\n" if not prompted and comment and " run " in command else ""
    if command:
        yield command, shown


def run(command: str, shown: str, place: str) -> None:
    """One line of a shell."""
    for part in command.split(" && "):
        first, *arguments = shlex.split(part, comments=True) or [""]
        if first == "idefics2-onnx":
            run_here(arguments, shown, place)
        elif first == "make":
            targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert {*arguments} <= {*targets}, f"{place}: make has no {arguments}"
        elif first == "pip":
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            for extra in re.findall(r"\.\[([\w,]+)\]", part):
                assert {*extra.split(",")} <= {*extras}, f"{place}: there is no extra {extra}"
        elif first in ("python", ".venv/bin/python"):
            script = ROOT / arguments[0]
            assert arguments[0] == "-m" or script.is_file(), f"{place}: there is no {arguments[0]}"
        elif first == "curl":
            ended = subprocess.run([shutil.which("curl") or pytest.skip("there is no curl"), *arguments], capture_output=True)
            assert (ended.returncode, b'"error"' in ended.stdout) == (0, False), f"{place}: {ended.stdout!r} {ended.stderr!r}"
        else:
            assert first in OTHERS, f"{place}: {part!r} is neither run nor known here"


def run_here(arguments: list[str], shown: str, place: str) -> None:
    """A command of this package; it is parsed only where running it takes another device, minutes or the real checkpoint."""
    name, *rest = arguments
    command = main.commands[name]
    try:
        context = command.make_context(name, list(rest), resilient_parsing=False)
    except click.UsageError as error:
        pytest.fail(f"{place}: {' '.join(arguments)}: {error.format_message()}")
    given = context.params
    options_of(given.get("chosen") or ())
    GpuOptions(**pairs_of(given.get("gpu") or (), GpuOptions, "GPU option"))
    if name == "export":
        check_export(arguments, place)
    if (
        name in ("export", "bench", "chat", "serve")
        or given.get("against")
        or given.get("address")
        or given.get("device") not in (None, "auto", "cpu")
    ):
        return
    if name == "run" and not shown:
        arguments = [*arguments, "--max-new-tokens", "8"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, f"{place}: {' '.join(arguments)}: {result.output}"
    if shown:
        assert result.stdout == shown, place


class ExportAskedForError(Exception):
    """What an export in a document ends with."""


def check_export(arguments: list[str], place: str) -> None:
    """Whether the command takes these options together; nothing is exported."""

    def export_model(*_: object, **__: object) -> None:
        raise ExportAskedForError

    with pytest.MonkeyPatch.context() as patch:
        stand_in = SimpleNamespace(Quantisation=lambda *_: None, export_model=export_model)
        patch.setattr("idefics2_onnx.cli._exporter", lambda: stand_in)
        result = CliRunner().invoke(main, arguments)
    assert isinstance(result.exception, ExportAskedForError), f"{place}: {' '.join(arguments)}: {result.output}"


def test_few_blocks_are_not_run():
    reasons = [f"{document}:{block.line}: {block.reason}" for document in RUN for block in blocks(document) if block.reason]
    marked = sum(len(NOT_RUN.findall(prose(document))) for document in RUN)
    assert marked == len(reasons), "a mark stands above no block"
    assert len(reasons) <= MOST_NOT_RUN, reasons


def anchors(document: Path) -> set[str]:
    """Of headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", document.read_text("utf-8"), flags=re.S | re.M), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", READ)
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\(([^)\s]+)\)", prose(document))
    for link in links:
        path, _, anchor = link.partition("#")
        if re.match(r"https?:", path):
            continue
        target = ((ROOT / document).parent / path).resolve() if path else ROOT / document
        assert target.exists(), f"{document}: {link}"
        assert target.is_relative_to(ROOT), f"{document}: {link}"
        assert not anchor or anchor in anchors(target), f"{document}: {link} names no heading"


def code_spans(document: str) -> set[str]:
    return {" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(document))}


@pytest.mark.parametrize("document", READ)
def test_files_that_are_named_exist(document):
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."}
    known = {str(path) for path in FILES} | {str(parent) for path in FILES for parent in path.parents}
    for span in code_spans(document):
        for word in span.split():
            ours = word.split("/")[0] in folders and "/" in word and re.fullmatch(r"[\w./-]+", word)
            if not ours and not re.fullmatch(r"[\w./-]+\.(py|md|svg|toml)|[\w-]+/", word):
                continue
            wanted = word.strip("/")
            if (beside := Path(document).parent.name) not in ("", "docs") and word.endswith(".py") and "/" not in word:
                wanted = f"{beside}/{wanted}"
            assert any(path == wanted or path.endswith(f"/{wanted}") for path in known), f"{document}: {word}"


@pytest.mark.parametrize("document", READ)
def test_options_that_are_named_exist(document):
    known = {name for command in main.commands.values() for option in command.params for name in option.opts} | FOREIGN
    known |= {"--help", "--version"}
    for script in ("benchmarks", "demo", "tests"):
        for path in (ROOT / script).glob("*.py"):
            known |= {*re.findall(r'"(--[a-z][a-z0-9-]+)"', path.read_text("utf-8"))}
    named = {*re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", (ROOT / document).read_text("utf-8"))}
    assert named <= known, f"{document}: {sorted(named - known)}"


def test_every_generation_option_is_documented_with_its_default():
    text = prose("docs/generation.md")
    names = {field.name for field in fields(GenerationOptions)}
    assert names <= {word for span in code_spans("docs/generation.md") for word in re.findall(r"\w+", span)}
    usual = GenerationOptions(max_new_tokens=DEFAULT_MAX_NEW_TOKENS)
    checked = 0
    for row in re.findall(r"^\| `(.+?) \| (.*?) \|", text, re.MULTILINE):
        options, defaults = re.findall(r"\w+", row[0]), [default.strip() for default in row[1].split(",")]
        if len(options) != len(defaults) or not {*options} <= names:
            continue
        for option, default in zip(options, defaults, strict=True):
            if re.fullmatch(r"–|True|False|[\d.]+", default):
                expected = None if default == "–" else ast.literal_eval(default)
                assert getattr(usual, option) == expected, option
                checked += 1
    assert checked > 15


def test_every_option_of_export_is_documented():
    words = {word for span in code_spans("docs/exporting.md") for word in span.split()}
    for option in main.commands["export"].params:
        if isinstance(option, click.Option) and "--help" not in option.opts:
            assert words & {name.rstrip(",") for name in option.opts}, option.opts


def test_pictures_are_what_their_script_draws(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import pictures

    monkeypatch.delitem(sys.modules, "pictures")
    for name, draw in pictures.PICTURES.items():
        assert (ROOT / "docs" / name).read_text("utf-8") == draw(), f"python docs/pictures.py makes another {name}"


def test_links_of_the_package_index_are_absolute(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import absolute_links

    monkeypatch.delitem(sys.modules, "absolute_links")
    text = absolute_links.absolute((ROOT / "README.md").read_text("utf-8"), "https://example.com/tree")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 10
    assert all(link.startswith(("https://", "#")) for link in links)
    assert "(https://example.com/tree/examples/shapes.png?raw=true)" in text


def test_the_citation_is_of_this_version():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
