"""Streams on the wire."""

from __future__ import annotations

import json
import socket
import threading
import time

import pytest
from idefics2_onnx.runtime.engine.engine import Engine
from live_server import live, question, until

LONG = {"max_tokens": 1800, "logit_bias": {"2": -100, "437": -100}}
STREAM = {"messages": question("What is in the picture?", "shapes.png"), "stream": True}


@pytest.fixture
def gate(monkeypatch):
    """Images wait for it from then on."""
    encode, opened = Engine.encode_images, threading.Event()
    yield lambda: monkeypatch.setattr(Engine, "encode_images", lambda *given: (opened.wait(30), encode(*given))[1]) or opened
    opened.set()


def test_comments_while_a_picture_is_encoded(demo, gate):
    with live(demo, keep_alive=0.05) as server:
        opened = gate()
        threading.Timer(0.4, opened.set).start()
        text = server.post("/v1/chat/completions", STREAM).text
    events = text.split("\n\n")
    assert events.count(": still working") >= 3
    assert json.loads(events[0].removeprefix("data: "))["choices"][0]["delta"]["role"] == "assistant"
    assert events[-2:] == ["data: [DONE]", ""]
    content = [json.loads(event[6:])["choices"][0]["delta"].get("content", "") for event in events if event[:7] == "data: {"]
    assert "".join(content).startswith("A red circle")


def test_what_is_found_wrong_after_a_comment_is_an_event(demo, gate):
    with live(demo, keep_alive=0.05) as server:
        opened = gate()
        waiting = [threading.Thread(target=server.post, args=("/v1/chat/completions", STREAM)) for _ in range(2)]
        for thread in waiting:
            thread.start()
        until(lambda: server.served.scheduler.waiting == 2)
        threading.Timer(0.2, opened.set).start()
        response = server.post("/v1/chat/completions", STREAM | {"max_tokens": 5000})
        for thread in waiting:
            thread.join()
    last = response.text.split("\n\n")[-2]
    assert response.status_code == 200
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "context_length_exceeded"


def test_headers(demo):
    with live(demo) as server:
        response = server.post("/v1/chat/completions", STREAM, headers={"x-request-id": "mine-1"})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["x-request-id"] == "mine-1"


def test_a_reader_that_takes_nothing_in_holds_up_nobody(demo, monkeypatch):
    monkeypatch.setattr("idefics2_onnx.runtime.server.stream._GRACE", 0.2)
    with live(demo, timeout=1.0) as server:
        host, port = server.address.removeprefix("http://").split(":")
        body = json.dumps(
            {"messages": question("?"), "stream": True, "logprobs": True, "top_logprobs": 20, **LONG, "n": 8, "temperature": 1}
        )
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            connection.connect((host, int(port)))
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
            connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
            until(lambda: server.served.under_way == 1)
            start = time.monotonic()
            while server.served.under_way:
                assert server.get("/health").status_code == 200
                assert time.monotonic() - start < 15
                time.sleep(0.05)
        assert server.post("/v1/chat/completions", STREAM).text.endswith("[DONE]\n\n")
        until(server.is_idle)
