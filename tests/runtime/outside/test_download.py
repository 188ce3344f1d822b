"""Images by URL: addresses as people write them, and servers that fail, each in one sentence."""

from __future__ import annotations

import io
import socket
import ssl
import threading

import pytest
from idefics2_onnx import ImageError
from idefics2_onnx.runtime.images.source import open_image, read_image
from idefics2_onnx.runtime.outside import download as downloads
from idefics2_onnx.runtime.outside.download import download
from PIL import Image

BODY = b"x" * 100
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\n" + BODY
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"


@pytest.fixture
def serve(monkeypatch):
    """A server that answers everything with the same bytes, or by the request line; its address."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    sockets, requests = [], []

    def start(answer, host="127.0.0.1"):
        listening = socket.create_server(("127.0.0.1", 0))
        sockets.append(listening)

        def loop():
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    request = connection.recv(65536).partition(b"\r\n")[0].decode("latin-1")
                    requests.append(request)
                    connection.sendall(answer(request) if callable(answer) else answer)

        threading.Thread(target=loop, daemon=True).start()
        return f"http://{host}:{listening.getsockname()[1]}"

    start.requests = requests
    yield start
    for each in sockets:
        each.close()


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/my photo.png", "/my%20photo.png"),
        ("/日本.png", "/%E6%97%A5%E6%9C%AC.png"),
        ("/a%20b%2Fc.png", "/a%20b%2Fc.png"),
        ("/a?q=é b&r=%C3%A9", "/a?q=%C3%A9%20b&r=%C3%A9"),
        ("/a.png#part", "/a.png"),
        ("/a(1)[2]{3}'\"<>|.png", "/a(1)%5B2%5D%7B3%7D'%22%3C%3E%7C.png"),
        ("/\ta\n.png", "/a.png"),
        ("?q", "/?q"),
        ("", "/"),
    ],
)
def test_addresses_as_people_write_them(path, asked, serve):
    assert download(serve(GOOD) + path, True) == BODY
    assert serve.requests == [f"GET {asked} HTTP/1.1"]


def test_hosts_in_other_letters_and_schemes_in_capitals(serve, monkeypatch):
    real, asked = socket.getaddrinfo, []
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **options: (asked.append(host), real("127.0.0.1", *rest, **options))[1]
    )
    assert download(serve(GOOD, "bücher.example") + "/a.png", ["bücher.example"]) == BODY
    assert asked == ["xn--bcher-kva.example"]
    picture = io.BytesIO()
    Image.new("RGB", (3, 2)).save(picture, "PNG")
    url = serve(b"HTTP/1.0 200 OK\r\n\r\n" + picture.getvalue()).replace("http", "HTTP")
    assert open_image(url, allow_urls=True).size == (3, 2)
    assert read_image(url, allow_urls=True) == picture.getvalue()


def test_addresses_that_a_server_sends_to(serve):
    def answer(request):
        return GOOD if "%C3%A9" in request else "HTTP/1.1 302 Found\r\nLocation: /é b.png\r\nContent-Length: 0\r\n\r\n".encode()

    assert download(serve(answer) + "/", True) == BODY
    assert serve.requests[1] == "GET /%C3%A9%20b.png HTTP/1.1"


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "does not speak HTTP"),
        (b"\x16\x03\x01" * 30, "does not speak HTTP|could not be downloaded"),
        (b"", "could not be downloaded"),
        (b"x" * 70_000, "does not speak HTTP"),
        (b"HTTP/1.1 abc OK\r\n\r\n", "does not speak HTTP"),
        (CHUNKED + b"1000\r\nabc", "broke off"),
        (CHUNKED + b"zz\r\nabc", "broke off"),
        (CHUNKED + b"-5\r\nabc", "broke off|could not be downloaded"),
        (GOOD[:-20], "broke off: 80 of 100 bytes came"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 300 + b"\r\n", "more than 100 headers"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", "could not be downloaded"),
        (b"HTTP/1.1 404 Not \x1b[31mFound\r\n\r\n", "HTTP Error 404: Not .x1b.31mFound"),
        (b"HTTP/1.1 500 \r\n\r\n", "HTTP Error 500"),
        (b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n", "more than 5 redirects"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\n\r\n", "could not be downloaded"),
        (b"HTTP/1.1 302 Found\r\nLocation: gopher://a\r\n\r\n", "could not be downloaded"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://a:port/\r\n\r\n", "could not be downloaded"),
        (b"HTTP/1.1 302 Found\r\n\r\n", "HTTP Error 302"),
    ],
)  # fmt: skip
def test_servers_that_fail(answer, match, serve):
    refused(serve(answer) + "/a.png", match)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:port/a.png", "http://127.0.0.1:99999/", "http://127.0.0.1:-1/", "http:///a.png", "http://", "https://?",
        "http://[::1/", "http://[x]/", "http://a..b/", "http://" + "é" * 80 + ".org/", "http://\udcff/", "http://127.0.0.1:9/\udcff",
        "http://user:secret@127.0.0.1:9/", "http://é:9\0/", "http://\x7f/", "http://%41:9/", "http://.../", "http://" + "a" * 300,
    ],
)  # fmt: skip
def test_addresses_that_are_none(url, serve, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: (_ for _ in ()).throw(socket.gaierror(-2, "Name not known")))
    refused(url, "could not be downloaded")


@pytest.mark.parametrize(
    "proxy", ["nonsense", "http://", "http://a:b:c", "socks5://127.0.0.1:9", "http://127.0.0.1:9", "http://[", "\udcff"]
)
def test_proxies_that_are_none(proxy, serve, monkeypatch):
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: (_ for _ in ()).throw(socket.gaierror(-2, "Name not known")))
    refused("http://a.invalid/a.png", "could not be downloaded")


def test_certificates_that_cannot_be_trusted(serve, monkeypatch):
    refused(serve(GOOD).replace("http:", "https:"), "could not be downloaded")
    failed = ssl.SSLCertVerificationError(1, "certificate verify failed: self-signed certificate")
    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", lambda *_, **__: (_ for _ in ()).throw(failed))
    refused(serve(GOOD).replace("http:", "https:"), "certificate cannot be trusted.*self-signed")


def test_answers_that_are_too_long(serve, monkeypatch):
    monkeypatch.setattr(downloads, "MAX_DOWNLOAD", 99)
    refused(serve(GOOD), "more than 99 bytes")


def refused(url, match):
    with pytest.raises(ImageError, match=match) as caught:
        open_image(url, allow_urls=True)
    assert str(caught.value).isprintable()
    str(caught.value).encode()
