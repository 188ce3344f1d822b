"""What the log says, and does not."""

from __future__ import annotations

import logging
import re

import pytest
from live_server import question


@pytest.fixture
def lines():
    """Of the server's log."""
    found: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("idefics2_onnx.server")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    yield found
    log.setLevel(logging.NOTSET)
    log.removeHandler(handler)


def test_a_line_for_each_request_says_nothing_of_its_texts(called, lines):
    client = called(api_keys=("the-key",))
    headers = {"authorization": "Bearer the-key"}
    for body in (
        {"messages": question("A secret question", "shapes.png")},
        {"messages": question("A secret question"), "max_tokens": 0},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "/a/secret/path"}]}]},
    ):
        client.post("/v1/chat/completions?secret=1", json=body, headers=headers)
    assert re.fullmatch(r"id=[0-9a-f]{32} POST /v1/chat/completions 200 \d+\.\d{3} s \(\d+ \+ \d+ tokens\)", lines[0])
    assert [line.split()[3] for line in lines] == ["200", "400", "400"]
    assert not any("ecret" in line or "the-key" in line or "base64" in line for line in lines)


def test_texts_are_logged_when_that_is_asked_for_and_pictures_never(called, lines):
    called(log_texts=True).post("/v1/chat/completions", json={"messages": question("What is in the picture?", "shapes.png")})
    assert "asks [['What is in the picture?']]" in lines[0]
    assert "answered ['A red circle" in lines[1]
    assert not any("base64" in line for line in lines)


@pytest.mark.parametrize(("given", "kept"), [("abc-1.2_3", True), ("a\nb", False), ("x" * 65, False), ("ä", False), ("", False)])
def test_ids_are_the_clients_where_they_are_harmless(called, given, kept):
    sent = called().get("/health", headers={"x-request-id": given.encode("latin-1")}).headers["x-request-id"]
    assert (sent == given) == kept
    assert re.fullmatch(r"[\w.-]+", sent)


def test_addresses_are_shown_on_one_line(called, lines):
    called().get("/%0aid=1 GET / 200%1b[2J" + "x" * 1000)
    assert len(lines) == 1
    assert lines[0].isprintable()
    assert len(lines[0]) < 300
