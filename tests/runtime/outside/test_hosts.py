"""Which hosts a download reaches, by name, by address and where servers send on to; and how long it may take."""

from __future__ import annotations

import ipaddress
import pickle
import socket
import threading

import pytest
from hostile_pictures import LITERALS
from idefics2_onnx import Idefics2ImageProcessor, ImageError
from idefics2_onnx.runtime.errors import PromptError
from idefics2_onnx.runtime.model import Idefics2
from idefics2_onnx.runtime.outside import download as downloads
from idefics2_onnx.runtime.outside.download import as_typed, download
from idefics2_onnx.runtime.outside.hosts import Hosts, RefusedError, is_public

BODY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def names(monkeypatch):
    """Addresses by name, as a resolver gives them; whatever is asked for, and a connection that goes elsewhere fails the test."""
    known, asked, real = {}, [], socket.getaddrinfo

    def look_up(host, port, *rest, **options):
        asked.append(host)
        found = known.get(host)
        if found is None:
            return real(host, port, *rest, **options)
        return [(socket.AF_INET6 if ":" in each else socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    known["asked"] = asked
    return known


@pytest.fixture
def serve():
    """A server on this machine that answers by the path, or never; gives its port."""
    listening = []

    def start(answers):
        server = socket.create_server(("127.0.0.1", 0))
        listening.append(server)

        def answer(connection):
            with connection:
                asked = connection.recv(65536)
                path = asked.split(b" ")[1].decode() if asked.startswith(b"GET ") else "TLS"
                reply = answers if isinstance(answers, bytes) else answers(path)
                try:
                    for piece in [reply] if isinstance(reply, bytes) else reply:
                        connection.sendall(piece)
                except OSError:
                    pass

        def loop():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        threading.Thread(target=loop, daemon=True).start()
        return server.getsockname()[1]

    yield start
    for each in listening:
        each.close()


def to(address):
    return f"HTTP/1.1 302 Found\r\nLocation: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True), ("1.1.1.1", True), ("2606:4700::1111", True), ("::ffff:8.8.8.8", True), ("64:ff9b::8.8.8.8", True),
        ("2002:808:808::", True), ("10.1.2.3", False), ("172.16.0.1", False), ("192.168.0.1", False), ("127.0.0.1", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False), ("240.0.0.1", False),
        ("255.255.255.255", False), ("192.0.2.1", False), ("198.18.0.1", False), ("::1", False), ("::", False), ("fe80::1", False),
        ("fc00::1", False), ("fec0::1", False), ("ff02::1", False), ("2001:db8::1", False), ("::ffff:10.0.0.1", False),
        ("64:ff9b::10.0.0.1", False), ("2002:a00:1::", False), ("::10.0.0.1", False), ("64:ff9b:1::1", False), ("2001::1", False),
    ],
)  # fmt: skip
def test_public_addresses(address, public):
    assert is_public(ipaddress.ip_address(address)) == public


@pytest.mark.parametrize("url", LITERALS)
def test_addresses_that_are_not_public_are_refused(url, names):
    with pytest.raises(ImageError, match="could not be downloaded"):
        download(url, allow_urls=True)
    with pytest.raises(ImageError, match="not among those in allow_urls|could not be downloaded"):
        download(url, allow_urls=["example.org"])
    assert names["asked"] == []  # refused by what is written


def test_a_name_is_looked_up_once_and_every_address_counts(names, serve):
    port = serve(BODY)
    names |= {"inner.example": ["127.0.0.1"], "both.example": ["8.8.8.8", "10.0.0.1"], "mapped.example": ["::ffff:127.0.0.1"]}
    for host in ("inner.example", "both.example", "mapped.example"):
        with pytest.raises(ImageError, match=f"the host {host} is not public; name it in allow_urls"):
            download(f"http://{host}:{port}/", allow_urls=True)
    names["asked"].clear()
    assert download(f"http://inner.example:{port}/", allow_urls=["INNER.example."]) == b"ok"
    assert names["asked"] == ["inner.example"]
    assert download(f"http://inner.example:{port}/", as_typed(f"http://inner.example:{port}/")) == b"ok"
    with pytest.raises(ImageError, match="the host both.example is not public"):
        download(f"http://both.example:{port}/", as_typed(f"http://inner.example:{port}/"))


def test_this_machine_only_where_the_address_names_it(names, serve):
    inner = serve(BODY)
    outer = serve(lambda path: to(path[1:]))
    names |= {"far.example": ["127.0.0.1"], "localhost": ["127.0.0.1"]}
    for host in ("127.0.0.1", "localhost"):
        assert download(f"http://{host}:{outer}/http://127.0.0.1:{inner}/", allow_urls=True) == b"ok"
    allowed = ["far.example", "*"]
    for address in (f"http://127.0.0.1:{inner}/", f"http://localhost:{inner}/", f"http://[::1]:{inner}/", "http://10.0.0.1/"):
        with pytest.raises(ImageError, match="is not public"):
            download(f"http://far.example:{outer}/{address}", allowed)
    with pytest.raises(ImageError, match="the host 127.0.0.1 is not among those in allow_urls"):
        download(f"http://far.example:{outer}/http://127.0.0.1:{inner}/", ["far.example"])
    assert not Hosts.read(True).without_local().local


@pytest.mark.parametrize("address", ["ftp://127.0.0.1:9/a", "file:///etc/passwd", "data:image/png;base64,AAAA", "gopher://a/", "//", "http://", "https://u:p@127.0.0.1/"])  # fmt: skip
def test_other_schemes_are_not_followed(address, serve, monkeypatch):
    seen = []
    port = serve(lambda path: (seen.append(path), to(address))[1])
    monkeypatch.setenv("ftp_proxy", f"http://127.0.0.1:{port}")
    with pytest.raises(ImageError, match="could not be downloaded"):
        download(f"http://127.0.0.1:{port}/", allow_urls=True)
    assert set(seen) == {"/"}


def test_a_public_server_does_not_lead_to_this_machine(serve, monkeypatch):
    inner, real = serve(BODY), downloads._connect
    outer = serve(lambda path: to(path[1:]))

    def connect(address, hosts, deadline):
        if address[0] == "far.example":  # as if it were public
            return real(("127.0.0.1", outer), None, deadline)
        return real(address, hosts, deadline)

    monkeypatch.setattr(downloads, "_connect", connect)
    address = f"http://127.0.0.1:{inner}/"
    for url in (f"http://far.example/{address}", f"http://127.0.0.1:{outer}/http://far.example/{address}"):
        with pytest.raises(ImageError, match=r"the host 127\.0\.0\.1 is not public"):
            download(url, allow_urls=True)


def test_redirects_are_counted(serve):
    port = serve(lambda path: BODY if path == "/0" else to(f"/{int(path[1:]) - 1}"))
    assert download(f"http://127.0.0.1:{port}/5", allow_urls=True) == b"ok"
    with pytest.raises(ImageError, match="more than 5 redirects"):
        download(f"http://127.0.0.1:{port}/6", allow_urls=True)


@pytest.mark.parametrize(
    "start", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"]
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_download_has_an_end(scheme, start, serve, monkeypatch):
    """In the headers, the answer and the TLS handshake, with a server that sends all the time or nothing."""
    wait, over = threading.Event(), threading.Event()
    monkeypatch.setattr(downloads, "DEADLINE", 0.2)

    def drip(_):
        yield start
        while not wait.wait(0.01):
            yield b"x" if start else b""

    port = serve(drip)
    with pytest.raises(ImageError, match=r"took longer than 0.2 seconds|does not speak|could not be"):
        download(f"{scheme}://127.0.0.1:{port}/", allow_urls=True)
    wait.set()
    over.set()


def test_through_a_proxy_names_and_literal_addresses_are_checked(names, serve, monkeypatch):
    seen = []
    port = serve(lambda path: (seen.append(path), BODY)[1])
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    assert download("http://far.example/a", allow_urls=True) == b"ok"
    assert "far.example" not in names["asked"]
    for host in ("10.0.0.1", "127.0.0.1.", "2130706433", "[::1]"):
        with pytest.raises(ImageError, match="could not be downloaded"):
            download(f"http://{host}/a", ["*"])
    with pytest.raises(ImageError, match="not among"):
        download("http://far.example/a", ["other.example"])
    assert seen == ["http://far.example/a"]


def test_what_allow_urls_may_be():
    for wrong in ("example.org", 1, None, ["http://example.org"], ["example.org:80"], ["a@b"], [""], [5], {"*.example.org"}):
        with pytest.raises(PromptError, match="allow_urls is"):
            Idefics2ImageProcessor(allow_urls=wrong)
        with pytest.raises(PromptError, match="allow_urls is"):
            Idefics2.from_pretrained(allow_urls=wrong)
    processor = Idefics2ImageProcessor(allow_urls=["Bücher.example", "::1", "*"])
    assert pickle.loads(pickle.dumps(processor)).allow_urls == processor.allow_urls
    assert Hosts.read(processor.allow_urls).names == {"xn--bcher-kva.example", "::1", "*"}
    with pytest.raises(RefusedError):
        Hosts.read(["a.example"]).check_name("b.example")
    assert Hosts.read(False) is None
    assert as_typed("http://[::1") == ("*",)
