"""What `serve` refuses before it listens."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys

import pytest
from click.testing import CliRunner
from idefics2_onnx.cli import main
from idefics2_onnx.runtime.commands.serve import NOISY, serve
from idefics2_onnx.runtime.server.settings import Settings


@pytest.fixture(autouse=True)
def the_log_as_it_was():
    """The command sets up its process's log, on a stream that is this test's."""
    root = logging.getLogger()
    handlers, levels = list(root.handlers), {logger: logger.level for logger in (root, *map(logging.getLogger, NOISY))}
    yield
    root.handlers[:] = handlers
    for logger, level in levels.items():
        logger.setLevel(level)


def call(*options: str, env: dict[str, str | None] | None = None):
    return CliRunner().invoke(main, ["serve", *options], env={"IDEFICS2_ONNX_API_KEY": None} | (env or {}))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "there is no key. Set $IDEFICS2_ONNX_API_KEY, or give --no-auth."),
        (["--host", "::"], "there is no key"),
        (["--tls-key", __file__], "--tls-key and --tls-cert go together"),
        (["--api-key", "a b"], "api_keys has a key of 3 characters"),
        (["--cors", "example.org"], "Give an origin"),
        (["--allow-image-urls", "https://example.org"], "no domain"),
        (["--name", ""], "name is ''"),
        (["-O", "nonsense=1"], "no generation option"),
        (["--port", "70000"], "70000"),
    ],
)
def test_what_is_wrong(options, said):
    ended = call(*options)
    assert ended.exit_code == 2
    assert said in ended.stderr


def test_addresses_and_files_that_cannot_be_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = call("--port", str(taken.getsockname()[1]))
        assert ended.exit_code == 1
        assert "cannot be used (Address already in use). Choose others with --port and --host." in ended.stderr
    ended = call("--host", "192.0.2.1", env={"IDEFICS2_ONNX_API_KEY": "key"})
    assert (ended.exit_code, "192.0.2.1 cannot be used" in ended.stderr) == (1, True)
    ended = call("--tls-key", __file__, "--tls-cert", __file__, "--port", "0")
    assert ended.exit_code == 1
    assert "Give PEM files that belong together." in ended.stderr


def test_defaults_are_those_of_settings():
    options = {option.name: option.default for option in serve.params}
    usual = Settings()
    (pixels,) = [option.help for option in serve.params if option.name == "max_image_pixels"]
    assert f"{usual.max_pixels:,}" in pixels
    for name in ("rows", "queue", "max_body", "timeout"):
        assert options[name] == getattr(usual, name)


def test_it_names_the_extra_that_is_missing(tmp_path):
    code = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'starlette':\n"
        "            raise ModuleNotFoundError(f'no {name}', name=name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "from idefics2_onnx.cli import main\n"
        "main(['serve', '--port', '0'])\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: This needs starlette, which is not installed. Run: pip install")
    assert "[serve]" in ended.stderr
