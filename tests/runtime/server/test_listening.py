"""The process that listens: how it begins, and how signals end it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

import httpx2
import openai
import pytest
from idefics2_onnx import Idefics2
from idefics2_onnx.runtime.errors import ServerError
from idefics2_onnx.runtime.server import create_app, listening
from live_server import Live, question, until

LONG = {"max_tokens": 800, "logit_bias": {"2": -100, "437": -100}}
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are others there")


class Process(Live):
    """`serve` on a port that is free."""

    def __init__(self, process: subprocess.Popen[str], address: str, lines: list[str]) -> None:
        super().__init__(address, None)
        self.process, self.lines = process, lines


@contextmanager
def serving(folder: Path, *options: str):
    command = [sys.executable, "-m", "idefics2_onnx", "serve", "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder)
    said: SimpleQueue[str] = SimpleQueue()
    Thread(target=lambda: [said.put(line) for line in process.stderr], daemon=True).start()
    lines: list[str] = []
    try:
        end, address = time.monotonic() + 60, ""
        while not any("OpenAI's clients" in line for line in lines):
            assert process.poll() is None, lines
            assert time.monotonic() < end, lines
            try:
                lines.append(said.get(timeout=0.1))
            except Empty:
                continue
        address = next(line for line in lines if "Listening at" in line).split()[2].rstrip(".")
        yield Process(process, address, lines)
    finally:
        process.kill()
        process.wait(10)


def begun(client: openai.OpenAI, **options):
    """A stream whose first words have come."""
    stream = client.chat.completions.create(model="idefics2-demo", messages=question("?"), stream=True, **options)
    chunks = iter(stream)
    next(chunks), next(chunks)
    return chunks


def test_a_signal_lets_answers_end_and_refuses_new_ones(tmp_path):
    with serving(tmp_path) as server, server.client() as client, server.client() as other:
        other.models.list()  # a connection that is kept
        assert "Serving idefics2-demo, 16 answers at once, without a key. Try it:" in "".join(server.lines)
        stream = begun(client, **LONG)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.get("/ready").status_code == 503)
        with pytest.raises(openai.InternalServerError) as caught:
            other.chat.completions.create(model="idefics2-demo", messages=question("?"))
        assert (caught.value.status_code, caught.value.code) == (503, "shutting_down")
        rest = list(stream)
        assert rest[-1].choices[0].finish_reason == "length"
        assert server.process.wait(20) == 0


def test_answers_that_take_too_long_then_are_cancelled(tmp_path):
    with serving(tmp_path, "--shutdown-timeout", "0.3", "-O", "logit_bias={}") as server, server.client() as client:
        stream = begun(client, **LONG, n=16, temperature=1)
        server.process.send_signal(signal.SIGINT)
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)
        assert server.process.wait(20) == 0


def test_all_addresses_of_a_name(tmp_path):
    names = {info[4][0] for info in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
    with serving(tmp_path, "--host", "localhost") as server:
        port = server.address.rpartition(":")[2]
        for name in names:
            with suppress(OSError), socket.socket(socket.AF_INET6 if ":" in name else socket.AF_INET) as probe:
                probe.bind((name, 0))  # the machine has it
                probe.close()
                host = f"[{name}]" if ":" in name else name
                assert httpx2.get(f"http://{host}:{port}/health").status_code == 200


def test_a_name_of_which_this_machine_has_not_every_address(monkeypatch):
    def looked_up(names):
        kind = socket.SOCK_STREAM
        families = {True: socket.AF_INET6, False: socket.AF_INET}
        return lambda *_, **__: [(families[":" in name], kind, 6, "", (name, 0)) for name in names]

    for names in (["2001:db8::1", "127.0.0.1"], ["127.0.0.1", "192.0.2.1"]):
        monkeypatch.setattr(socket, "getaddrinfo", looked_up(names))
        (listener,) = listening._listeners("name", 0)
        assert listener.getsockname()[0] == "127.0.0.1"
        listener.close()
    monkeypatch.setattr(socket, "getaddrinfo", looked_up(["2001:db8::1", "192.0.2.1"]))
    with pytest.raises(ServerError, match="Port 0 of name cannot be used"):
        listening._listeners("name", 0)


def test_where_it_cannot_listen_nothing_goes_on():
    model = Idefics2.from_pretrained()
    app = create_app(model)
    until(lambda: app.state.served.state == "ready")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ServerError, match="cannot be used"):
        listening.listen(app, *taken.getsockname(), patience=1, when_bound=print, when_ready=print)
    assert app.state.served.state == "closing"
    assert not app.state.served.scheduler.is_alive


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "idefics2_onnx", "serve", "--port", "0", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_folder_that_is_none_ends_it(tmp_path):
    ended = run("-m", str(tmp_path))
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in ended.stderr
