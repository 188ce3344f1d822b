"""An internet in which names lead where a test says, and public addresses are servers on this machine."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

Answer = bytes | Callable[[asyncio.StreamReader, asyncio.StreamWriter, str], Awaitable[None]]
PUBLIC, OTHER = "93.184.216.34", "2606:2800:220:1::1"
"""Two addresses that the whole internet sees; nothing is ever sent to them."""


class MadeUpInternet:
    """Stands in for look-ups and connections while a test runs.

    Attributes:
        names: what each name leads to; of several lists, one for each look-up, and the last from then on.
        looked_up, connected: what was asked for, in order; an address with its port.
        asked: the heads of the requests that servers got.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.names: dict[str, list[list[str]]] = {}
        self.looked_up: list[str] = []
        self.connected: list[tuple[str, int]] = []
        self.asked: list[str] = []
        self._ports: dict[tuple[str, int], int] = {}
        self._open = asyncio.open_connection
        patch.setattr(socket, "getaddrinfo", self._look_up)
        patch.setattr(asyncio, "open_connection", self._connect)

    async def serve(self, answer: Answer, address: str = PUBLIC, port: int = 80, tls: ssl.SSLContext | None = None) -> None:
        """A server at an address, until the event loop ends."""

        async def met(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                self.asked.append(head)
                if callable(answer):
                    await answer(reader, writer, head.split(" ")[1])
                else:
                    writer.write(answer)
                    await writer.drain()
            except (OSError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(met, "127.0.0.1", 0, ssl=tls)
        self._ports[address, port] = server.sockets[0].getsockname()[1]

    def _look_up(self, host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        self.looked_up.append(host)
        try:
            literal = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host) and [[host]]
        except OSError:
            literal = None
        lists = literal or self.names.get(host)
        if lists is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        found = lists.pop(0) if len(lists) > 1 else lists[0]
        return [(socket.AF_INET6 if ":" in own else socket.AF_INET, socket.SOCK_STREAM, 6, "", (own, port)) for own in found]

    async def _connect(self, address: str, port: int, **options: Any) -> Any:
        self.connected.append((address, port))
        if (address, port) not in self._ports:
            raise ConnectionRefusedError(111, "Connection refused")
        return await self._open("127.0.0.1", self._ports[address, port], **options)
