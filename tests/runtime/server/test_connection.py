"""Connections whose clients do nothing, under an app that answers at once."""

from __future__ import annotations

import socket
import threading
import time

import pytest
import uvicorn
from idefics2_onnx.runtime.server import connection
from live_server import until

HEAD = b"GET / HTTP/1.1\r\nhost: localhost\r\n"
LARGE = 8 << 20


async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(LARGE).encode())]})
    await send({"type": "http.response.body", "body": bytes(LARGE)})


@pytest.fixture
def server(monkeypatch):
    """One whose connections are looked at often, and its port."""
    monkeypatch.setattr(connection, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        config = uvicorn.Config(app, http=connection.Connection, log_config=None, ws="none", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        until(lambda: server.started)
        yield server, listener.getsockname()[1]
        server.should_exit = True
        thread.join(10)


@pytest.mark.parametrize("said", [b"", b"G", HEAD, HEAD + b"\r\n"])
def test_one_that_asks_or_takes_in_nothing_more_is_closed(server, said):
    """At once, in the middle of a head, and with an answer that is not taken in."""
    server, port = server
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(said)
        until(lambda: server.server_state.connections)
        until(lambda: not server.server_state.connections, 3)


def test_one_that_takes_its_time_is_not(server):
    server, port = server
    with socket.create_connection(("127.0.0.1", port)) as client:
        for letter in HEAD[:3]:
            client.sendall(bytes([letter]))
        client.sendall(HEAD[3:] + b"\r\n")
        length = 0
        for _ in range(12):
            time.sleep(0.1)
            length += len(client.recv(LARGE // 8))
        while piece := client.recv(LARGE):
            length += len(piece)
        assert length > LARGE
