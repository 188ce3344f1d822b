"""The bytes behind an http(s) address."""

from __future__ import annotations

import http.client
import re
import ssl
import urllib.request
from typing import IO, Any
from urllib.parse import quote, urlsplit, urlunsplit

from .errors import ImageError, first_line

MAX_DOWNLOAD = 256 << 20
"""Bytes of an image behind a URL."""
_TIMEOUT = 30
"""Seconds without an answer before a download fails."""
_IN_PATH, _IN_QUERY = "/%:@!$&'()*+,;=~", "/?%:@!$&'()*+,;=~[]|^"
"""What has a meaning there, and % of letters that are escaped already."""
_URL = re.compile(r"https?://", re.IGNORECASE)


def is_url(name: str) -> bool:
    """Whether a name is an address that can be downloaded from."""
    return _URL.match(name) is not None


def download(url: str) -> bytes:
    """What a server answers, whole.

    Raises:
        ImageError: it could not be downloaded, broke off, or is longer than MAX_DOWNLOAD.
    """
    try:
        with _opener().open(_written_out(url), timeout=_TIMEOUT) as response:
            content: bytes = response.read(MAX_DOWNLOAD + 1)
            said = response.headers.get("Content-Length") or ""
    except http.client.IncompleteRead as error:
        raise ImageError(f"{_shown(url)} broke off. Try again.") from error
    # OverflowError is a port's, and urllib's handlers meet whatever a server or a proxy's address makes of them.
    except (OSError, ValueError, OverflowError, http.client.HTTPException, AttributeError, TypeError) as error:
        raise ImageError(f"{_shown(url)} could not be downloaded ({_reason(error)}). Check the address.") from error
    if len(content) > MAX_DOWNLOAD:
        raise ImageError(f"{_shown(url)} has more than {MAX_DOWNLOAD:,} bytes. Give a smaller image.")
    if said.isdecimal() and len(content) < int(said):
        raise ImageError(f"{_shown(url)} broke off: {len(content):,} of {int(said):,} bytes came. Try again.")
    return content


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Writes out the address that a server sends to, as the one that was given."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        return super().redirect_request(req, fp, code, msg, headers, _written_out(newurl))


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Redirects)


def _written_out(url: str) -> str:
    """The address as HTTP has it: spaces and other letters escaped, the host's in their ASCII form."""
    parts = urlsplit(url.strip())
    host = parts.netloc if parts.netloc.isascii() else _ascii_host(parts.hostname or "", parts.port)
    return urlunsplit((parts.scheme, host, quote(parts.path, _IN_PATH), quote(parts.query, _IN_QUERY), ""))


def _ascii_host(host: str, port: int | None) -> str:
    name = host.encode("idna").decode("ascii")
    return name if port is None else f"{name}:{port}"


def _shown(url: str) -> str:
    return ascii(url)[1:-1][:200] if not url.isprintable() else url[:200]


def _reason(error: BaseException) -> str:
    """One line of it, without what a server may have written to change a terminal."""
    cause: Any = getattr(error, "reason", None)
    if isinstance(cause, ssl.SSLError):
        return f"the server's certificate cannot be trusted: {first_line(cause)}"
    if isinstance(error, http.client.BadStatusLine | http.client.LineTooLong):
        return f"the server does not speak HTTP: {first_line(error)}"
    return first_line(error)
