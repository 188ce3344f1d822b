"""What an http(s) address gives, asked of the host's address that was checked and of no other."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias
from urllib.parse import quote, urljoin

import h11

from ..errors import first_line, shown
from ..outside.hosts import is_public
from .allowed_domains import AllowedDomains, Place
from .data_url import check_type, too_large
from .picture_refused import PictureRefused

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
MAX_REDIRECTS = 3
CONNECT_SECONDS = 3.0
"""What one of a host's addresses may take to be reached before the next is tried."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PIECE = 1 << 16
_MAX_HEADERS = 1 << 15
_IN_ADDRESS = "!#$%&'()*+,/:;=?@[]~"
"""What stays as it is where the rest of a Location header is escaped."""
_UNTYPED = frozenset({"", "application/octet-stream", "binary/octet-stream"})
"""What stores say of a file whose type nobody told them."""
_HEADERS = [("User-Agent", "idefics2-onnx"), ("Accept", "image/*"), ("Accept-Encoding", "identity"), ("Connection", "close")]


class PinnedDownload:
    """Downloads from allowed domains that lead to public addresses only; no proxies, cookies or credentials.

    A host is looked up once for each request to it, and the connection goes to what was found then, so that a name that leads
    elsewhere a moment later changes nothing. TLS is verified against the host's name.
    """

    def __init__(self, domains: AllowedDomains, max_bytes: int) -> None:
        self._domains, self._max_bytes = domains, max_bytes
        self._context: ssl.SSLContext | None = None

    async def read(self, url: str, count: Callable[[int], object]) -> bytes:
        """The body of the answer, after at most MAX_REDIRECTS redirects, each of which is checked as the first address was.

        `count` is told how many bytes came, before they are kept, and may raise.

        Raises:
            PictureRefused: one of the addresses may not be asked, or its answer is no picture, too large or broken off.
        """
        place = self._domains.place(url)
        for _ in range(1 + MAX_REDIRECTS):
            try:
                async with self._connected(place) as streams:
                    answer = await self._ask(place, count, *streams)
            except (OSError, UnicodeError, h11.ProtocolError) as error:
                raise PictureRefused(
                    f"The picture cannot be fetched from {place.host} ({_reason(error)}). Check the address."
                ) from error
            if isinstance(answer, bytes):
                return answer
            place = self._led_on(place, answer)
        raise PictureRefused(f"The image_url leads on more than {MAX_REDIRECTS} times. Send the address at the end.")

    async def _tls(self) -> ssl.SSLContext:
        """What certificates are checked with; reading the system's takes long enough to do it in a thread."""
        if self._context is None:
            self._context = await asyncio.to_thread(ssl.create_default_context)
        return self._context

    @asynccontextmanager
    async def _connected(self, place: Place) -> AsyncIterator[Streams]:
        tls = await self._tls() if place.scheme == "https" else None
        failed: OSError = OSError("it has no address")
        for address in await public_addresses(place.host, place.port):
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    reader, writer = await _opened(address, place, tls)
            except OSError as error:  # TimeoutError, too
                failed = error
                continue
            try:
                yield reader, writer
            finally:
                writer.transport.abort()
            return
        raise failed

    async def _ask(
        self, place: Place, count: Callable[[int], object], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes | str:
        """The body of an answer, or the address that it leads on to."""
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEADERS)
        request = h11.Request(method="GET", target=place.target, headers=[("Host", place.authority), *_HEADERS])
        writer.write((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
        content = bytearray()
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await reader.read(_PIECE))
            elif isinstance(event, h11.Response):
                if event.status_code in _REDIRECTS:
                    return _header(event, b"location")
                self._check(event, place)
            elif isinstance(event, h11.Data):
                count(len(event.data))
                content += event.data
                if len(content) > self._max_bytes:
                    raise too_large(self._max_bytes)
                await asyncio.sleep(0)  # chunks may be small and many, and others want their turn
            elif isinstance(event, h11.EndOfMessage):
                if not content:
                    raise PictureRefused(f"{place.host} answered with nothing. Check the address.")
                return bytes(content)

    def _check(self, response: h11.Response, place: Place) -> None:
        """Raise PictureRefused for an answer that will be no picture, as far as its headers tell."""
        if response.status_code != 200:
            raise PictureRefused(f"{place.host} answered {response.status_code} and no picture. Check the address.")
        encoding = _header(response, b"content-encoding").strip().lower()
        if encoding not in ("", "identity"):
            raise PictureRefused(
                f"{place.host} packs its answer ({shown(encoding, 40)}), though it was asked not to. Send the picture itself."
            )
        kind = _header(response, b"content-type")
        if kind.partition(";")[0].strip().lower() not in _UNTYPED:
            check_type(kind, f"What {place.host} answers")
        said = _header(response, b"content-length")
        if said.isdecimal() and int(said) > self._max_bytes:
            raise too_large(self._max_bytes)

    def _led_on(self, place: Place, location: str) -> Place:
        if not location:
            raise PictureRefused(f"{place.host} leads on without saying where to. Check the address.")
        try:
            url = urljoin(place.url, quote(location, _IN_ADDRESS, "latin-1", "replace"))
            if url.partition(":")[0].lower() not in ("http", "https"):
                raise PictureRefused("It is no http(s) address. Send the picture itself.")
            following = self._domains.place(url)
        except ValueError as error:  # PictureRefused, too
            why = error if isinstance(error, PictureRefused) else "It cannot be read. Check the address."
            raise PictureRefused(f"{place.host} leads on to another address. {why}") from error
        if place.scheme == "https" and following.scheme == "http":
            raise PictureRefused(f"{place.host} leads from https on to http. Send an address that stays with https.")
        return following


async def public_addresses(host: str, port: int) -> list[str]:
    """All addresses of a host, looked up once.

    Raises:
        PictureRefused: one of them is not public, whatever the others are.
        OSError: it has none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(numbers[0]) for *_, numbers in found))
    if not all("%" not in each and is_public(ipaddress.ip_address(each)) for each in addresses):
        raise PictureRefused(f"{host} leads to an address that is not public. Send the picture itself.")
    return addresses


async def _opened(address: str, place: Place, tls: ssl.SSLContext | None) -> Streams:
    """A connection to a literal address, which nothing looks up again."""
    return await asyncio.open_connection(address, place.port, ssl=tls, server_hostname=place.host if tls else None)


def _header(response: h11.Response, name: bytes) -> str:
    """A header's value, several as one; "" where there is none."""
    return ", ".join(value.decode("latin-1") for own, value in response.headers if own == name)


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError):
        return f"its certificate cannot be trusted: {first_line(error)}"
    if isinstance(error, socket.gaierror):
        return "its name is not known"
    if isinstance(error, TimeoutError):
        return "it cannot be reached"
    return first_line(error)
