"""The bytes that an http(s) address gives."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Collection
from contextlib import suppress
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from ..errors import ImageError, first_line, shown
from .hosts import PUBLIC, AllowUrls, Hosts, RefusedError, names_this_machine

MAX_DOWNLOAD = 256 << 20
"""Most bytes of an image at a URL."""
DEADLINE = 60
"""Seconds that a download may take with all that it is sent on to, however busy the server keeps it."""
MAX_REDIRECTS = 5
_TIMEOUT = 30
"""Seconds without an answer before a download fails."""
_PIECE = 1 << 18
_IN_PATH, _IN_QUERY = "/%:@!$&'()*+,;=~", "/?%:@!$&'()*+,;=~[]|^"
"""What has a meaning there, and % of letters that are escaped already."""
_URL = re.compile(r"https?://", re.IGNORECASE)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


def is_url(name: str) -> bool:
    """Whether a name is an address that can be downloaded from."""
    return _URL.match(name) is not None


def as_typed(url: str) -> Collection[str]:
    """What may be reached for an address that a person typed: its own host, private or not, and public ones."""
    with suppress(ValueError):
        if host := urlsplit(url.strip()).hostname:
            return (PUBLIC, host)
    return (PUBLIC,)


def download(url: str, allow_urls: AllowUrls) -> bytes:
    """What a server answers, whole.

    Each host on the way, also those that servers send on to, is looked up once, and the connection goes to an address that
    `allow_urls` lets through (`Hosts`). Where the environment names a proxy, the proxy looks names up, and only names and literal
    addresses are checked here.

    Raises:
        ImageError: URLs are not allowed, or not this one; it could not be downloaded, broke off, is longer than MAX_DOWNLOAD, or
            took longer than DEADLINE.
    """
    hosts = Hosts.read(allow_urls)
    if hosts is None:
        raise ImageError(f"{shown(url)} is a URL, and downloads are off. Set allow_urls=True, or give the image itself.")
    deadline = _Deadline()
    try:
        with deadline:
            content = _follow(url, hosts, deadline)
            deadline.seconds_left()  # an answer of no stated length seems to have ended where the connection was shut down
            return content
    # OverflowError is a port's, and urllib's handlers meet whatever a server or a proxy's address makes of them.
    except (OSError, ValueError, OverflowError, http.client.HTTPException, AttributeError, TypeError) as error:  # ImageError, too
        if deadline.over:
            raise ImageError(f"{shown(url)} took longer than {DEADLINE} seconds. Try again, or give the image itself.") from error
        if isinstance(error, ImageError):
            raise
        if isinstance(error, http.client.IncompleteRead):
            raise ImageError(f"{shown(url)} broke off. Try again.") from error
        raise ImageError(f"{shown(url)} could not be downloaded ({_reason(error)}). Check the address.") from error


def _follow(url: str, hosts: Hosts, deadline: _Deadline) -> bytes:
    """The answer of the last of the servers that one after the other sends on to."""
    next_url = _written_out(url)
    for _ in range(1 + MAX_REDIRECTS):
        request = urllib.request.Request(next_url)  # noqa: S310  the next line is the audit
        if request.type not in ("http", "https"):
            raise RefusedError(f"it leads to {shown(request.type)}:, which is not http(s)")
        if not names_this_machine(urlsplit(next_url).hostname or ""):
            hosts = hosts.without_local()
        try:
            with _opener(hosts, deadline).open(request, timeout=_TIMEOUT) as response:
                return _read(response, url)
        except HTTPError as error:
            with error:
                if error.code not in _REDIRECTS or not (location := error.headers.get("Location")):
                    raise
            next_url = _written_out(urljoin(next_url, _escaped(location)))
    raise RefusedError(f"more than {MAX_REDIRECTS} redirects, perhaps an infinite loop")


def _read(response: Any, url: str) -> bytes:
    content, said = bytearray(), response.headers.get("Content-Length") or ""
    while piece := response.read(_PIECE):
        content += piece
        if len(content) > MAX_DOWNLOAD:
            raise ImageError(f"{shown(url)} has more than {MAX_DOWNLOAD:,} bytes. Give a smaller image.")
    if said.isdecimal() and len(content) < int(said):
        raise ImageError(f"{shown(url)} broke off: {len(content):,} of {int(said):,} bytes came. Try again.")
    return bytes(content)


class _Deadline:
    """Shuts the connections of a download down when its time is over, whatever they wait for.

    Attributes:
        over: whether it did.
    """

    def __init__(self) -> None:
        self.over, self._end = False, time.monotonic() + DEADLINE
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._timer = threading.Timer(DEADLINE, self._shut)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        with self._lock:
            for each in self._sockets:
                each.close()
            self._sockets.clear()

    def seconds_left(self) -> float:
        """More than 0; TimeoutError without any."""
        left = self._end - time.monotonic()
        if self.over or left <= 0:
            self.over = True
            raise TimeoutError("the time is over")
        return left

    def watch(self, connection: socket.socket) -> None:
        """Hold on to a connection by a second handle: TLS takes the first one away."""
        with self._lock:
            self._sockets.append(connection.dup())
        self.seconds_left()

    def _shut(self) -> None:
        with self._lock:
            self.over = True
            for each in self._sockets:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)


def _opener(hosts: Hosts, deadline: _Deadline) -> urllib.request.OpenerDirector:
    """http and https, through the environment's proxies; no redirects, no other schemes, nothing that is installed globally."""

    def connected(kind: Any, request: urllib.request.Request) -> Any:
        direct = urllib.request.Request(request.full_url).host == request.host  # noqa: S310  nothing is opened
        if not direct:
            hosts.check_name(urlsplit(request.full_url).hostname or "")

        def connect(address: tuple[str, int], *_: object, **__: object) -> socket.socket:
            return _connect(address, hosts if direct else None, deadline)

        def connection(host: str, **options: Any) -> Any:
            made = kind(host, **options)
            made._create_connection = connect
            return made

        return connection

    class Plain(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(connected(http.client.HTTPConnection, req), req)

    class Secure(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(connected(http.client.HTTPSConnection, req), req)

    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        Plain(),
        Secure(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _connect(address: tuple[str, int], hosts: Hosts | None, deadline: _Deadline) -> socket.socket:
    """A connection to one of the checked addresses of a host; without `hosts` to a proxy, wherever that is."""
    host, port = address
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM) if hosts is None else hosts.addresses(host, port)
    failed: OSError = OSError("the host has no address")
    for family, kind, protocol, _, numbers in found:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(min(_TIMEOUT, deadline.seconds_left()))
            connection.connect(numbers)
            connection.settimeout(_TIMEOUT)
            deadline.watch(connection)
            return connection
        except OSError as error:
            connection.close()
            failed = error
    raise failed


def _escaped(location: str) -> str:
    """The address in a header, whose bytes http.client reads as Latin-1."""
    return quote(location, safe="".join(map(chr, range(33, 127))), encoding="latin-1", errors="replace")


def _written_out(url: str) -> str:
    """The address as HTTP has it: spaces and other letters escaped, the host's in their ASCII form."""
    parts = urlsplit(url.strip())
    if "@" in parts.netloc:
        raise RefusedError("it has a user name in it")
    host = parts.netloc if parts.netloc.isascii() else _ascii_host(parts.hostname or "", parts.port)
    return urlunsplit((parts.scheme, host, quote(parts.path, _IN_PATH), quote(parts.query, _IN_QUERY), ""))


def _ascii_host(host: str, port: int | None) -> str:
    name = host.encode("idna").decode("ascii")
    return name if port is None else f"{name}:{port}"


def _reason(error: BaseException) -> str:
    """One line of it, without what a server may have written to change a terminal."""
    cause: Any = getattr(error, "reason", None)
    if isinstance(cause, ssl.SSLError):
        return f"the server's certificate cannot be trusted: {first_line(cause)}"
    if isinstance(error, http.client.BadStatusLine | http.client.LineTooLong):
        return f"the server does not speak HTTP: {first_line(error)}"
    return first_line(error)
