"""Which domains pictures may be fetched from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from ..errors import PromptError, shown
from ..outside.hosts import is_public, like_a_number, literal_address, plain_name
from .picture_refused import PictureRefused

PORTS = {"http": 80, "https": 443}
_SPOKEN = re.compile(r"[!#-;=?-\[\]_a-z~]+")
"""What an address is written in: printable ASCII without space, double quotes, backslash, bar, angle brackets, caret, backtick
and braces.

Programs disagree about what the others mean, and a check is worth nothing where two programs read two hosts.
"""
_DOMAIN = re.compile(r"(?P<below>\*?\.)?(?P<host>\[[^\[\]/@?#\s]+\]|[^\[\]:/@?#\s]+)(:(?P<port>\d{1,5}))?")
_LABELS = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")


@dataclass(frozen=True)
class Place:
    """Where a request goes, taken apart once, so that what was checked is what is asked."""

    scheme: str
    """http or https."""
    host: str
    """A name in ASCII and small letters, or an address as it is written shortest."""
    port: int
    target: str
    """Path and query."""

    @property
    def authority(self) -> str:
        """Host and port as the Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The whole address, without what a server does not see of it."""
        return f"{self.scheme}://{self.authority}{self.target}"


@dataclass(frozen=True)
class _Domain:
    name: str
    below: bool
    """Whether the domains below it are meant, and not itself."""
    port: int | None

    def holds(self, host: str, scheme: str, port: int) -> bool:
        named = host.endswith(f".{self.name}") if self.below else host == self.name
        return named and port == (self.port or PORTS[scheme])


class AllowedDomains:
    """Domains by name: "example.org" is itself, ".example.org" and "*.example.org" are all below it and not itself.

    A port, as in "example.org:8443", allows that one in the place of the scheme's own.

    Raises:
        PromptError: one of them is no domain.
    """

    def __init__(self, allowed: Sequence[str]) -> None:
        if isinstance(allowed, str):
            raise PromptError(f"The allowed domains are one text, {shown(repr(allowed))}. Give a list of them.")
        self._domains = tuple(map(_domain, allowed))

    def place(self, url: str) -> Place:
        """Take an http(s) address apart.

        Raises:
            PictureRefused: it is none, or none that may be asked.
        """
        if not _SPOKEN.fullmatch(url):
            raise PictureRefused("The image_url has characters that no address has. Percent-encode them (%20 for a space).")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise PictureRefused("The image_url's host or port cannot be read. Check the address.") from error
        scheme, host = parts.scheme, _plain(parts.hostname or "")
        if scheme not in PORTS or not host:
            raise PictureRefused("The image_url has no host. Send https://, the host and the path.")
        if "@" in parts.netloc:
            raise PictureRefused("The image_url has a user name or password in it. Send an address without.")
        port = PORTS[scheme] if port is None else port
        if not any(each.holds(host, scheme, port) for each in self._domains):
            raise PictureRefused(self._refusal(host, port, scheme))
        path = parts.path or "/"
        return Place(scheme, host, port, f"{path}?{parts.query}" if parts.query else path)

    def _refusal(self, host: str, port: int, scheme: str) -> str:
        if not self._domains:
            return "This server fetches no pictures from addresses. Send the picture itself, as data:image/png;base64,…"
        where = shown(host) if port == PORTS[scheme] else f"{shown(host)}, port {port},"
        return f"This server fetches no pictures from {where}. Send the picture itself, as data:image/png;base64,…"


def _domain(text: str) -> _Domain:
    read = _DOMAIN.fullmatch(text)
    name = _plain(read["host"]) if read else ""
    port = int(read["port"]) if read and read["port"] else None
    literal = literal_address(name)
    below = read is not None and read["below"] is not None
    if not name or port == 0 or (port or 0) > 65535 or (literal is not None and (below or not is_public(literal))):
        raise PromptError(
            f"{shown(repr(text))} is no domain that pictures can be fetched from. Give names without https://, such as "
            "example.org, .example.org for all below it, or example.org:8443."
        )
    return _Domain(name, below, port)


def _plain(host: str) -> str:
    """The one way in which a host is written here; "" for what is none, or what C libraries would read as a number."""
    name = plain_name(host)
    if literal_address(name) is not None:
        return "" if "%" in name else name
    return name if _LABELS.fullmatch(name) and not like_a_number(name) else ""
