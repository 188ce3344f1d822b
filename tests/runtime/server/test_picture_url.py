"""What an image_url may be: pictures themselves and allowed domains, and nothing that reads this machine or its neighbours."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import shutil
import socket
import ssl
import subprocess
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import example, given, settings, strategies
from idefics2_onnx import ImageError
from idefics2_onnx.runtime.images.source import open_image
from idefics2_onnx.runtime.server.budget import Budget
from idefics2_onnx.runtime.server.conversation import Picture
from idefics2_onnx.runtime.server.picture_refused import PictureRefused
from idefics2_onnx.runtime.server.picture_url import PictureUrls
from idefics2_onnx.runtime.server.pictures import picture_bytes
from idefics2_onnx.runtime.server.problem import Problem
from made_up_internet import OTHER, PUBLIC, MadeUpInternet
from picture_addresses import ALLOWED, DATA_OF_OTHERS, DISGUISED, HERE, OTHERWISE, PARTS
from PIL import Image
from touches import touches

PNG = base64.b64encode(b"\x89PNG not really").decode()
DATA = f"data:image/png;base64,{PNG}"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"
SHORT = HEAD + b"Content-Length: 5\r\n\r\nhello"


@pytest.fixture
def internet(monkeypatch):
    made_up = MadeUpInternet(monkeypatch)
    made_up.names |= {"pictures.example": [[PUBLIC]], "a.below.example": [[PUBLIC]], "ported.example": [[PUBLIC]]}
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    return made_up


def read(url, allowed=ALLOWED, **limits):
    return asyncio.run(PictureUrls(allowed, **limits).read(url))


def refusal(url, allowed=ALLOWED, **limits):
    with pytest.raises(PictureRefused) as caught:
        read(url, allowed, **limits)
    return sentence(caught.value)


def sentence(error):
    text = str(error)
    assert text.isprintable()
    assert 20 < len(text) < 400
    assert text[0].isupper() or text.startswith(("pictures.example", "a.below.example", "ported.example"))
    assert text.endswith((".", ";base64,…"))
    return text


def refused_untouched(url, allowed):
    """The refusal, when neither disk nor network was asked for it."""

    async def try_it():
        urls = PictureUrls(allowed)
        with pytest.raises(PictureRefused):
            await urls.read("warm:up")
        with touches() as found:
            try:
                await urls.read(url)
            except PictureRefused as error:
                return sentence(error), found
        pytest.fail(f"{url[:100]!r} was taken")

    text, found = asyncio.run(try_it())
    assert not found, (url[:100], found)
    return text


@pytest.mark.parametrize("url", [*HERE, *DISGUISED, *OTHERWISE, *DATA_OF_OTHERS])
def test_nothing_is_touched(url):
    text = refused_untouched(url, ALLOWED)
    assert refused_untouched(url, ()) == text or "fetches no pictures from" in text


def test_touches_are_noticed(tmp_path, monkeypatch):
    for touch in (
        lambda: (tmp_path / "a").exists(),
        lambda: os.lstat("/etc/passwd"),
        lambda: Path("/dev/null").open().close(),
        lambda: list(Path("/").iterdir()),
        lambda: socket.socket().close(),
        lambda: socket.getaddrinfo("localhost", 80),
        lambda: subprocess.run(["true"], check=True),
    ):
        with touches() as found:
            touch()
        assert found

    async def careless(_, url):
        await asyncio.to_thread(os.path.exists, url)
        raise PictureRefused("There is no image file of this name. Check the path.")

    monkeypatch.setattr(PictureUrls, "read", careless)
    with pytest.raises(AssertionError, match="os.stat"):
        refused_untouched("/etc/passwd", ())


def test_addresses_by_chance():
    """Each is refused in a sentence, is a picture itself, or goes where it may."""
    with pytest.MonkeyPatch.context() as patch:
        internet = MadeUpInternet(patch)
        internet.names |= {name: [[PUBLIC]] for name in ("pictures.example", "a.below.example", "ported.example")}

        @settings(max_examples=1500, deadline=None)
        @given(strategies.lists(strategies.sampled_from(PARTS), max_size=12))
        @example(["http:", "//", "pictures.example", "/"])
        def tried(parts):
            url = "".join(parts)
            try:
                assert isinstance(read(url), bytes)
                assert url.startswith("data:image/png;base64,")
            except PictureRefused as error:
                sentence(error)

        tried()
    assert set(internet.connected) <= {(PUBLIC, 80), (PUBLIC, 443), (PUBLIC, 8443)}
    assert internet.connected


def test_a_refusal_does_not_tell_whether_a_file_exists(tmp_path):
    there, missing = tmp_path / "there.png", tmp_path / "missing.png"
    Image.new("RGB", (8, 8)).save(there)
    for form in ("{}", "file://{}", "file:{}", "//{}", "http://{}", "data:{}"):
        assert refusal(form.format(there)) == refusal(form.format(missing))


def test_no_domain_is_allowed_unless_one_is(internet):
    assert refusal("https://pictures.example/a.png", ()) == (
        "This server fetches no pictures from addresses. Send the picture itself, as data:image/png;base64,…"
    )
    assert not internet.looked_up


@pytest.mark.parametrize(
    "domain",
    ["", ".", "*", "*.", "https://a.example", "a.example/b", "a b.example", "a@b.example", "127.0.0.1", "10.0.0.1", "[::1]", "2130706433",
     "0x7f.1", "a.example:0", "a.example:65536", "a.example:", "a.*.example", "*a.example", ".127.0.0.1", "-a.example", "a..example", "::1"],
)  # fmt: skip
def test_domains_that_are_none(domain):
    with pytest.raises(ValueError, match="is no domain that pictures can be fetched from"):
        PictureUrls([domain])


def test_limits_and_domains_of_other_kinds():
    for limits in ({"max_bytes": 0}, {"seconds": 0}, {"seconds": float("nan")}, {"seconds": float("inf")}):
        with pytest.raises(ValueError, match="Give positive numbers"):
            PictureUrls(**limits)
    with pytest.raises(ValueError, match="Give a list of them"):
        PictureUrls("pictures.example")
    assert refusal(7).startswith("The image_url is no text")


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://pictures.example/a.png?b=c#d", "pictures.example"),
        ("HTTP://PICTURES.example./a.png?b=c", "pictures.example"),
        ("http://pictures.example:80/a.png?b=c", "pictures.example"),
        ("http://a.below.example/a.png?b=c", "a.below.example"),
        ("http://ported.example:8443/a.png?b=c", "ported.example:8443"),
    ],
)
def test_allowed_domains_are_asked(url, host, internet):
    async def try_it():
        await internet.serve(SHORT)
        await internet.serve(SHORT, port=8443)
        return await PictureUrls(ALLOWED).read(url)

    assert asyncio.run(try_it()) == b"hello"
    assert internet.looked_up == [host.partition(":")[0]]
    (head,) = internet.asked
    assert head.startswith("GET /a.png?b=c HTTP/1.1\r\n")
    assert f"\r\nHost: {host}\r\n" in head
    assert not {"cookie", "authorization", "referer"} & {line.partition(":")[0].lower() for line in head.splitlines()}


def test_domains_in_other_letters_and_public_literals(internet):
    internet.names["xn--bcher-kva.example"] = [[PUBLIC]]

    async def try_it():
        await internet.serve(SHORT)
        await internet.serve(SHORT, OTHER, 8080)
        urls = PictureUrls(["bücher.example", PUBLIC, f"[{OTHER}]:8080"])
        places = ("xn--bcher-kva.example", PUBLIC, f"[{OTHER}]:8080")
        return [await urls.read(f"http://{place}/") for place in places]

    assert asyncio.run(try_it()) == [b"hello"] * 3
    assert f"\r\nHost: [{OTHER}]:8080\r\n" in internet.asked[-1]


PRIVATE = [
    "127.0.0.1", "10.1.2.3", "172.31.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "240.0.0.1",
    "192.0.0.8", "192.0.2.1", "198.18.0.1", "192.88.99.1", "::1", "::", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1",
    "64:ff9b::a00:1", "64:ff9b:1::1", "2002:a00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "fe80::1", "fe80::1%lo", "fc00::1",
    "fec0::1", "ff02::1", "2001:db8::1", "3fff::1", "5f00::1", "100::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_names_that_lead_to_what_is_not_public(address, internet):
    for found in ([address], [PUBLIC, address], [address, PUBLIC]):
        internet.names["pictures.example"] = [found]
        assert refusal("https://pictures.example/a.png") == (
            "pictures.example leads to an address that is not public. Send the picture itself."
        )
    assert not internet.connected


def test_names_that_change_between_two_look_ups(internet):
    internet.names["pictures.example"] = [[PUBLIC], ["127.0.0.1"]]

    async def try_it():
        await internet.serve(SHORT)
        await internet.serve(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret", "127.0.0.1")
        return await PictureUrls(ALLOWED).read("http://pictures.example/a.png")

    assert asyncio.run(try_it()) == b"hello"
    assert (internet.looked_up, internet.connected) == (["pictures.example"], [(PUBLIC, 80)])
    assert "not public" in refusal("http://pictures.example/a.png")
    assert internet.connected == [(PUBLIC, 80)]


def redirect(to, status=302):
    return f"HTTP/1.1 {status} Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode("latin-1")


@pytest.mark.parametrize(
    ("to", "why"),
    [
        *((url, "") for url in HERE if url.isascii()),
        ("https://elsewhere.example/a.png", "fetches no pictures from elsewhere.example"),
        ("//elsewhere.example/a.png", "fetches no pictures from elsewhere.example"),
        ("http://pictures.example:8080/", "fetches no pictures from pictures.example, port 8080,"),
        ("http://user@pictures.example/", "user name"),
        ("http://pictures.example\\@127.0.0.1/", ""),
        ("file:///etc/passwd", "no http(s) address"),
        ("gopher://127.0.0.1/", "no http(s) address"),
        ("data:image/png;base64,AAAA", "no http(s) address"),
        ("http://[::1", "cannot be read"),
        ("", "without saying where to"),
    ],
)
def test_redirects_are_checked_as_the_address_was(to, why, internet):
    async def try_it():
        await internet.serve(redirect(to))
        await PictureUrls(ALLOWED).read("http://pictures.example/a.png")

    with pytest.raises(PictureRefused) as caught:
        asyncio.run(try_it())
    assert sentence(caught.value).startswith("pictures.example leads on ")
    assert why in str(caught.value)
    assert internet.connected == [(PUBLIC, 80)]
    assert internet.looked_up == ["pictures.example"]


def test_a_redirect_to_a_name_that_has_changed(internet):
    internet.names["pictures.example"] = [[PUBLIC], ["127.0.0.1"]]

    async def try_it():
        await internet.serve(redirect("/b.png"))
        await internet.serve(SHORT, "127.0.0.1")
        await PictureUrls(ALLOWED).read("http://pictures.example/a.png")

    with pytest.raises(PictureRefused, match="not public"):
        asyncio.run(try_it())
    assert internet.connected == [(PUBLIC, 80)]


@pytest.mark.parametrize(("times", "taken"), [(3, True), (4, False)])
def test_redirects_are_counted(times, taken, internet):
    async def answer(_, writer, path):
        number = int(path[1:] or 0)
        writer.write(SHORT if number == times else redirect(f"/{number + 1}", 301 + number % 2))
        await writer.drain()

    async def try_it():
        await internet.serve(answer)
        return await PictureUrls(ALLOWED).read("http://pictures.example")

    if taken:
        assert asyncio.run(try_it()) == b"hello"
        return
    with pytest.raises(PictureRefused, match="more than 3 times"):
        asyncio.run(try_it())


def test_redirects_in_other_letters(internet):
    async def answer(_, writer, path):
        writer.write(redirect("/caf\xc3\xa9 1.png") if path == "/" else SHORT)
        await writer.drain()

    async def try_it():
        await internet.serve(answer)
        return await PictureUrls(ALLOWED).read("http://pictures.example/")

    assert asyncio.run(try_it()) == b"hello"
    assert internet.asked[-1].startswith("GET /caf%C3%A9%201.png ")


def test_a_picture_of_many_pieces_in_chunks(internet):
    content = os.urandom(300_000)

    async def answer(_, writer, path):
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for start in range(0, len(content), 7000):
            piece = content[start : start + 7000]
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def try_it():
        await internet.serve(answer)
        return await PictureUrls(ALLOWED, max_bytes=len(content)).read("http://pictures.example/")

    assert asyncio.run(try_it()) == content


def filled(head, piece, pause=0.0, count=10**9):
    """An answer without an end, or one of so many pieces."""

    async def answer(_, writer, path):
        writer.write(head)
        for _ in range(count):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return answer


def test_a_download_is_held_as_it_comes(internet):
    """Not only once it is whole: many may come at once."""

    async def try_it():
        await internet.serve(filled(HEAD + b"\r\n", b"x" * 65536))
        budget = Budget(200_000)
        with pytest.raises(Problem) as caught:
            await picture_bytes([Picture("http://pictures.example/", "here")], PictureUrls(ALLOWED), 10**8, budget.hold())
        return caught.value.code, budget.held

    code, held = asyncio.run(try_it())
    assert (code, held <= 200_000) == ("too_many_bytes", True)


CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BROKEN = {
    "endless": (filled(HEAD + b"\r\n", b"x" * 65536), "more than 1,000,000 bytes"),
    "endless in chunks": (filled(CHUNKED, b"1000\r\n" + b"x" * 4096 + b"\r\n"), "more than 1,000,000 bytes"),
    "endless in tiny chunks": (filled(CHUNKED, b"1\r\nx\r\n" * 1000), "more than 1,000,000 bytes|longer than"),
    "large by its length": (HEAD + b"Content-Length: 1000001\r\n\r\n", "more than 1,000,000 bytes"),
    "huge by its length": (HEAD + b"Content-Length: " + b"9" * 20 + b"\r\n\r\n", "more than 1,000,000 bytes"),
    "longer than its length": (HEAD + b"Content-Length: -5\r\n\r\nhello", "cannot be fetched from"),
    "slow": (filled(HEAD + b"\r\n", b"x", 0.05), "longer than 0.5 seconds"),
    "silent": (filled(b"", b"", 60), "longer than 0.5 seconds"),
    "slow headers": (filled(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n", 0.05), "longer than 0.5 seconds"),
    "endless headers": (filled(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 1000), "cannot be fetched from"),
    "endless hints": (filled(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100), "longer than 0.5 seconds"),
    "one long header": (filled(b"HTTP/1.1 200 OK\r\nA: ", b"a" * 1000), "cannot be fetched from"),
    "broken off": (HEAD + b"Content-Length: 10\r\n\r\nhello", "cannot be fetched from"),
    "chunks broken off": (CHUNKED + b"5\r\nhello\r\n", "cannot be fetched from"),
    "chunks of no size": (CHUNKED + b"zz\r\nhello\r\n", "cannot be fetched from"),
    "two lengths": (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "cannot be fetched from"),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "cannot be fetched from"),
    "nothing": (b"", "cannot be fetched from"),
    "empty": (HEAD + b"Content-Length: 0\r\n\r\n", "answered with nothing"),
    "packed": (HEAD + b"Content-Encoding: gzip\r\n\r\n" + zlib.compress(bytes(10**7)), "packs its answer (gzip)"),
    "packed twice": (HEAD + b"Content-Encoding: identity, br\r\n\r\nx", "packs its answer"),
    "packed for the way": (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\nx", "cannot be fetched from"),
    "a page": (b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<html>", "has the type text/html"),
    "a drawing": (b"HTTP/1.1 200 OK\r\nContent-Type: image/svg+xml\r\n\r\n<svg/>", "is an SVG"),
    "not found": (b"HTTP/1.1 404 Not Found\r\nContent-Length: 1\r\n\r\nx", "answered 404"),
    "a part": (b"HTTP/1.1 206 Partial\r\nContent-Length: 1\r\n\r\nx", "answered 206"),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\n\r\n", "answered 304"),
    "another protocol": (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "cannot be fetched from"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_answers_that_are_no_picture(name, internet):
    answer, why = BROKEN[name]

    async def try_it():
        await internet.serve(answer)
        await PictureUrls(ALLOWED, max_bytes=1_000_000, seconds=0.5).read("http://pictures.example/")

    started = time.monotonic()
    with pytest.raises(PictureRefused) as caught:
        asyncio.run(try_it())
    assert any(part in sentence(caught.value) for part in why.split("|"))
    assert time.monotonic() - started < 5


def test_types_that_are_not_told_are_left_to_the_bytes(internet):
    async def try_it(header):
        await internet.serve(b"HTTP/1.1 200 OK\r\n" + header + b"\r\nhello")
        return await PictureUrls(ALLOWED).read("http://pictures.example/")

    for header in (b"", b"Content-Type: application/octet-stream\r\n", b"Content-Type: IMAGE/PNG; a=b\r\n"):
        assert asyncio.run(try_it(header)) == b"hello"


def test_the_next_address_is_tried(internet):
    internet.names["pictures.example"] = [[OTHER, PUBLIC]]

    async def try_it():
        await internet.serve(SHORT)
        return await PictureUrls(ALLOWED).read("http://pictures.example/")

    assert asyncio.run(try_it()) == b"hello"
    assert internet.connected == [(OTHER, 80), (PUBLIC, 80)]


def test_hosts_that_are_not_there(internet):
    assert "its name is not known" in refusal("http://b.below.example/")
    assert "Connection refused" in refusal("http://pictures.example/")


def test_a_look_up_that_takes_too_long(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(0.5))
    assert "longer than 0.1 seconds" in refusal("http://pictures.example/", seconds=0.1)


def test_others_get_their_turn_meanwhile(internet):
    """An event loop that reads a large picture and a body of tiny chunks goes on with the rest."""
    large = "data:image/png;base64," + base64.b64encode(bytes(19_000_000)).decode()

    async def try_it():
        await internet.serve(filled(CHUNKED, b"1\r\nx\r\n" * 1000))
        urls, gaps, over = PictureUrls(ALLOWED, seconds=0.5), [], asyncio.Event()

        async def beat():
            while not over.is_set():
                before = time.monotonic()
                await asyncio.sleep(0.001)
                gaps.append(time.monotonic() - before)

        beating = asyncio.create_task(beat())
        assert len(await urls.read(large)) == 19_000_000
        with pytest.raises(PictureRefused):
            await urls.read("http://pictures.example/")
        over.set()
        await beating
        return gaps

    gaps = asyncio.run(try_it())
    assert len(gaps) > 50
    assert max(gaps) < 0.5


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=x",
         "-addext", "subjectAltName=DNS:pictures.example", "-keyout", folder / "key.pem", "-out", folder / "own.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder


@pytest.mark.parametrize(
    ("host", "trusted", "why"),
    [
        ("pictures.example", True, None),
        ("pictures.example", False, "certificate cannot be trusted"),
        ("a.below.example", True, "certificate cannot be trusted"),
    ],
)
def test_certificates_are_of_the_name_not_the_address(host, trusted, why, internet, certificate, monkeypatch):
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "own.pem"))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate / "own.pem", certificate / "key.pem")

    async def try_it():
        await internet.serve(SHORT, port=443, tls=server)
        return await PictureUrls(ALLOWED).read(f"https://{host}/a.png")

    if why is None:
        assert asyncio.run(try_it()) == b"hello"
        return
    with pytest.raises(PictureRefused, match=why):
        asyncio.run(try_it())
    assert not internet.asked


def test_https_does_not_lead_to_http(internet, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "own.pem"))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate / "own.pem", certificate / "key.pem")

    async def try_it(to):
        await internet.serve(redirect(to), port=443, tls=server)
        await internet.serve(SHORT)
        return await PictureUrls(ALLOWED).read("https://pictures.example/a.png")

    with pytest.raises(PictureRefused, match="leads from https on to http"):
        asyncio.run(try_it("http://pictures.example/a.png"))
    with pytest.raises(PictureRefused, match="more than 3 times"):
        asyncio.run(try_it("https://pictures.example/a.png"))


@pytest.mark.parametrize("kind", ["png", "jpeg", "jpg", "webp", "gif", "bmp", "tiff", "avif", "heic", "x-portable-pixmap"])
def test_data_of_pictures(kind):
    for head in (f"data:image/{kind};base64,", f"DATA:IMAGE/{kind.upper()};BASE64,", f"data:image/{kind};name=a.png;base64,"):
        assert read(head + PNG) == base64.b64decode(PNG)
    assert read("data:image/png;base64,%41%41%41%3D") == b"\0\0"


@pytest.mark.parametrize(("size", "taken"), [(1000, True), (1001, False), (2_000_000, False)])
def test_data_is_measured_before_it_is_decoded(size, taken, monkeypatch):
    url = DATA[: -len(PNG)] + base64.b64encode(bytes(size)).decode()
    if taken:
        assert len(read(url, max_bytes=1000)) == size
        return
    assert "more than 1,000 bytes" in refusal(url, max_bytes=1000)
    assert "more than 1,000 bytes" in refusal(url.replace("AAAA", "%41%41%41%41"), max_bytes=1000)


def bombs():
    yield b"PK\x03\x04" + zlib.compress(bytes(10**7)), "archive"
    yield zlib.compress(bytes(10**7)), "not an image of a format"
    yield b"\x1f\x8b" + zlib.compress(bytes(10**7)), "archive"
    yield b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", "XML"
    yield b"%!PS-Adobe-3.0 EPSF-3.0", "PostScript"
    picture = io.BytesIO()
    Image.new("1", (16000, 16000)).save(picture, "PNG")  # 256 megapixels in 32 kB
    yield picture.getvalue(), "pixels than the limit"
    header = bytearray(picture.getvalue())
    header[16:24] = b"\x7f\xff\xff\xff" * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    yield bytes(header), "pixels than the limit"


def test_bombs_meet_the_limits_on_decoding():
    """A picture's bytes come from here; what they unpack to is bounded where they are decoded."""
    for content, why in bombs():
        taken = read("data:image/png;base64," + base64.b64encode(content).decode())
        assert taken == content
        with pytest.raises(ImageError, match=why):
            open_image(taken)
