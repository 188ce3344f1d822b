"""Which hosts a download may reach."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..errors import PromptError, shown

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
AllowUrls: TypeAlias = bool | Collection[str]
PUBLIC = "*"
"""Among names: every public host, too."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NOT_PUBLIC = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20")))
"""Set apart for protocols, for a relay that is gone and for examples: Python knows them in its newer versions only."""
_LIKE_A_NUMBER = re.compile(r"(.*\.)?(\d+|0x[0-9a-f]*)", re.IGNORECASE)
"""Names that C libraries take for addresses: decimal, octal, hexadecimal or short ones."""


class RefusedError(ValueError):
    """A host that may not be reached."""


@dataclass(frozen=True)
class Hosts:
    """What `allow_urls` says.

    * a collection of names (or literal addresses): exactly these hosts, wherever their names lead, and no others, also where
      servers send on to; "*" stands for every public host.
    * True, for developers: every public host, and this machine where the address that was given names it ("localhost", 127.0.0.1,
      ::1), as do all that it sends on to.
    * False: none.

    A public host is one of whose addresses each is public: not private, link-local, shared (CGNAT), multicast or reserved, also
    not inside of an IPv6 address.
    """

    names: frozenset[str]
    local: bool
    """Whether this machine may be named."""

    @classmethod
    def read(cls, allow_urls: AllowUrls) -> Hosts | None:
        """None where no URL is allowed; PromptError if it is no such value."""
        if isinstance(allow_urls, bool):
            return cls(frozenset({PUBLIC}), local=True) if allow_urls else None
        if isinstance(allow_urls, str) or not isinstance(allow_urls, Collection) or not all(map(_is_name, allow_urls)):
            raise PromptError(
                f"allow_urls is {shown(repr(allow_urls))}. Give True, False, or a list of host names without ports, such as "
                "['example.org']."
            )
        return cls(frozenset(each if each == PUBLIC else plain_name(each) for each in allow_urls), local=False)

    def without_local(self) -> Hosts:
        """The same from where a hop has not named this machine."""
        return Hosts(self.names, local=False)

    def check_name(self, host: str) -> None:
        """Raise RefusedError for a host that may not be reached, as far as its name tells."""
        name, literal = plain_name(host), literal_address(host)
        if name in self.names or (self.local and names_this_machine(host)):
            return
        public = not like_a_number(name) if literal is None else is_public(literal)
        if PUBLIC not in self.names or not public or names_this_machine(host):
            raise RefusedError(self._refusal(host))

    def addresses(self, host: str, port: int) -> list[tuple[Any, ...]]:
        """`socket.getaddrinfo` of a host, asked once; RefusedError unless every address of it may be reached."""
        self.check_name(host)
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        free = plain_name(host) in self.names
        for *_, address in found:
            numbers = ipaddress.ip_address(str(address[0]).partition("%")[0])
            here = self.local and names_this_machine(host) and _plain(numbers).is_loopback
            if not (free or here or is_public(numbers)):
                raise RefusedError(self._refusal(host))
        return found

    def _refusal(self, host: str) -> str:
        if PUBLIC not in self.names:
            return f"the host {shown(host)} is not among those in allow_urls"
        return f"the host {shown(host)} is not public; name it in allow_urls to reach it"


def is_public(address: Address) -> bool:
    """Whether the whole internet sees an address, and the same one wherever it is asked for."""
    address = _plain(address)
    special = address.is_multicast or address.is_reserved or address.is_unspecified or getattr(address, "is_site_local", False)
    return address.is_global and not special and not any(address in network for network in _NOT_PUBLIC)


def like_a_number(name: str) -> bool:
    """Whether a name that is no properly written address may still be read as one, as 2130706433 and 0x7f.1 are."""
    return _LIKE_A_NUMBER.fullmatch(name) is not None


def names_this_machine(host: str) -> bool:
    """Whether a name or literal address says by itself that it is this machine."""
    name, literal = plain_name(host), literal_address(host)
    return name == "localhost" or name.endswith(".localhost") if literal is None else _plain(literal).is_loopback


def plain_name(host: str) -> str:
    """A host's name as it is compared: in ASCII and small letters, an address as it is written shortest; "" if it is none."""
    literal = literal_address(host)
    if literal is not None:
        return str(literal)
    try:
        return host.rstrip(".").encode("idna").decode("ascii").lower()
    except UnicodeError:
        return ""


def literal_address(host: str) -> Address | None:
    """An IPv4 or IPv6 address as it is properly written, in brackets or not."""
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


def _is_name(name: object) -> bool:
    return isinstance(name, str) and (
        name == PUBLIC or (bool(plain_name(name)) and not re.search(r"[/@?#*\s]|:\d+$", name)) or _is_v6(name)
    )


def _is_v6(name: str) -> bool:
    return isinstance(literal_address(name), ipaddress.IPv6Address)


def _plain(address: Address) -> Address:
    """The IPv4 address that an IPv6 one carries, or itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
