"""Bodies: how they come, how long they may be, and what they may be."""

from __future__ import annotations

import json
import socket
import time

import pytest
from live_server import EXAMPLES, live, question, until

SHAPES = (EXAMPLES / "shapes.png").read_bytes()
ASKED = json.dumps({"messages": question("What is in the picture?", "shapes.png"), "max_tokens": 2}).encode()
JSON = {"content-type": "application/json"}
CHAT = "/v1/chat/completions"


def in_pieces(content: bytes, size: int = 1000):
    for start in range(0, len(content), size):
        yield content[start : start + size]


def error(response):
    return response.status_code, response.json()["error"]["code"]


def test_up_to_the_limit_whatever_a_header_says(lives):
    with lives(max_body=len(ASKED)) as server:
        assert server.post(CHAT, content=in_pieces(ASKED), headers=JSON).status_code == 200
        assert error(server.post(CHAT, content=in_pieces(ASKED + b" "), headers=JSON)) == (413, "body_too_long")
        assert error(server.post(CHAT, content=ASKED + b" " * (8 << 20), headers=JSON)) == (413, "body_too_long")
        assert error(server.post(CHAT, files={"image": bytes(8 << 20)})) == (413, "body_too_long")
        assert server.post(CHAT, content=ASKED, headers=JSON).status_code == 200
        assert server.served is None or until(server.is_idle) is None


def test_bodies_that_stop_half_way(demo):
    with live(demo, body_timeout=0.3) as server:
        host, port = server.address.removeprefix("http://").split(":")
        head = f"POST {CHAT} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n"
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + b'{"messages": [')
            connection.settimeout(5)
            assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + b'{"messages": [')
            until(lambda: server.served.under_way == 1)
        until(server.is_idle)


def test_all_requests_together_hold_so_many_bytes(called):
    client = called(max_held=3 * len(ASKED))
    assert client.post(CHAT, content=ASKED, headers=JSON).status_code == 200
    hold = client.app.state.served.budget.hold()
    hold.take(2 * len(ASKED) + 1)
    response = client.post(CHAT, content=ASKED, headers=JSON)
    assert error(response) == (429, "too_many_bytes")
    assert response.headers["retry-after"] == "1"
    hold.release()
    assert client.post(CHAT, content=ASKED, headers=JSON).status_code == 200
    assert client.app.state.served.budget.held == 0


def test_what_json_becomes_is_held_too(called):
    """An object of four bytes takes a hundred."""
    client = called(max_held=1 << 20)
    value = b'{"messages": [{"role": "user", "content": "?"}], "max_tokens": 1, "metadata": [' + b"[]," * 40_000 + b"1]}"
    content, headers = form(('name="request"', value))
    for response in (client.post(CHAT, content=value, headers=JSON), client.post(CHAT, content=content, headers=headers)):
        assert error(response) == (429, "too_many_bytes")
    assert client.app.state.served.budget.held == 0
    assert called().post(CHAT, content=value, headers=JSON).status_code == 200


def test_a_forms_charset_is_utf_8(called):
    """Python reads punycode in a time that grows with its square."""
    client = called()
    content, headers = form(('name="prompt"', b"-" + b"b" * 400_000))
    start = time.monotonic()
    kind = headers["content-type"] + "; charset=punycode"
    assert error(client.post(CHAT, content=content, headers={"content-type": kind})) == (400, "invalid_form")
    assert time.monotonic() - start < 3
    content, headers = form(('name="prompt"', "Wäs?".encode()))
    assert client.post(CHAT, content=content, headers={"content-type": headers["content-type"] + "; charset=UTF-8"}).is_success


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/xml", "image/png"])
def test_other_types(called, kind):
    assert error(called().post(CHAT, content=ASKED, headers={"content-type": kind})) == (415, "unsupported_media_type")


def test_kinds_of_json(called):
    client = called()
    for kind in ("Application/JSON; charset=utf-8", "application/vnd.api+json"):
        assert client.post(CHAT, content=ASKED, headers={"content-type": kind}).status_code == 200
    zipped = client.post(CHAT, content=ASKED, headers=JSON | {"content-encoding": "gzip"})
    assert error(zipped) == (415, "unsupported_encoding")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON at character 0"),
        (b"{", "not JSON at character 1"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"[" * 1000, "inside one another"),
        (b"[" * 100_000 + b"]" * 100_000, "inside one another"),
        (b'{"a": ' * 101 + b"1" + b"}" * 101, "inside one another"),
        (b"[" + b"[]," * 60_000 + b"[]]", "brackets, commas and colons, more than 100,000"),
        (b'{"temperature": NaN}', "NaN"),
        (b'{"temperature": -Infinity}', "Infinity"),
        (b'{"seed": ' + b"9" * 10_000 + b"}", "digits"),
        (b"[]", "The body is a list. Send an object."),
        (b"null", "The body is null. Send an object."),
    ],
)
def test_what_is_no_json(called, content, said):
    start = time.monotonic()
    response = called().post(CHAT, content=content, headers=JSON)
    assert response.status_code == 400
    assert said in response.json()["error"]["message"]
    assert time.monotonic() - start < 10


def form(*parts: tuple[str, bytes]) -> tuple[bytes, dict[str, str]]:
    body = b"".join(b"--x\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + c + b"\r\n" for head, c in parts)
    return body + b"--x--\r\n", {"content-type": "multipart/form-data; boundary=x"}


def test_forms(called, monkeypatch):
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: ["/no/such/folder"])  # nothing touches the disk
    client = called(max_images=2)
    image = ('name="image"; filename="a.png"', SHAPES)
    for parts, expected in (
        ([image, ('name="prompt"', b"What?")], 200),
        ([image, image, ('name="request"', b'{"max_tokens": 2, "messages": [{"role": "user", "content": "?"}]}')], 200),
        ([image, image, image, ('name="prompt"', b"What?")], 400),
        ([image, ('name="file"', b"x")], 400),
        ([('name="image"', SHAPES)], 400),
        ([('name="prompt"', b"What?"), ('name="request"', b'{"prompt": "x"}')], 400),
        ([('name="prompt"', b"What?"), ('name="request"', b"[]")], 400),
        ([('name="prompt"', b"What?"), ('name="request"', b"{")], 400),
        ([image, ('name="request"', b'{"messages": [{"role": "system", "content": "?"}]}')], 400),
        ([("filename=x", b"x")], 400),
        ([('name="image"; filename="a.png"', b"no picture")], 400),
    ):
        content, headers = form(*parts)
        response = client.post(CHAT, content=content, headers=headers)
        assert response.status_code == expected, response.text
    content, headers = form(image, ('name="prompt"', "Wäs?".encode()))
    for damaged, kind in (
        (content[:-400], headers["content-type"]),
        (content, "multipart/form-data"),
        (content, "multipart/form-data; boundary=y"),
        (content, headers["content-type"] + "; charset=undefined"),
        (content, headers["content-type"] + "; charset=utf-16"),
        (b"", headers["content-type"]),
    ):
        response = client.post(CHAT, content=damaged, headers={"content-type": kind})
        assert response.status_code == 400, response.text
    assert client.app.state.served.budget.held == 0
