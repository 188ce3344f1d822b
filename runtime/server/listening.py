"""The app on a port, until a signal ends it."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType
from typing import Any

import uvicorn

from ..errors import ServerError, first_line
from .connection import Connection
from .served import Served

_LAST_WORDS = 5
"""Seconds for clients that still take in the end of their answers, and for bodies that still come."""


class Listening(uvicorn.Server):
    """Ends at SIGTERM or Ctrl-C: new requests are refused at once, running ones may end, and after `patience` seconds they are
    cancelled. A second signal cancels them at once.
    """

    def __init__(self, config: uvicorn.Config, served: Served, patience: float, when_ready: Callable[[], None] | None) -> None:
        super().__init__(config)
        self._served, self._patience, self._when_ready = served, patience, when_ready
        self._closes_at = float("inf")
        self._cancelling: threading.Thread | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """A signal came."""
        now = time.monotonic()
        self._closes_at = now if self._served.state == "closing" else now + self._patience
        self._served.close_doors()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end."""
        served, late = self._served, time.monotonic() - self._closes_at
        if served.state == "ready" and self._when_ready is not None:
            self._when_ready()
            self._when_ready = None
        if late >= 0 and self._cancelling is None:
            self._cancelling = threading.Thread(target=served.close, args=(0,), name="close", daemon=True)
            self._cancelling.start()
        is_over = served.state == "closing" and not served.under_way
        return is_over or served.state == "failed" or late > _LAST_WORDS or await super().on_tick(counter)


def listen(
    app: Any,
    host: str,
    port: int,
    *,
    patience: float,
    when_bound: Callable[[str], None],
    when_ready: Callable[[], None],
    **options: Any,
) -> None:
    """Serve an app that `create_app` made, until a signal comes.

    Args:
        port: 0 for any that is free.
        patience: seconds that running answers have to end, once a signal came.
        when_bound: called with the address when it listens.
        when_ready: called when a first answer was computed.
        options: of `uvicorn.Config`.

    Raises:
        ServerError: the address cannot be used.
        Exception: the model could not be loaded.
    """
    served: Served = app.state.served
    with ExitStack() as stack:
        stack.callback(served.close, 0)  # where it never came to listen, nothing else does
        listeners = [stack.enter_context(one) for one in _listeners(host, port)]
        try:
            config = uvicorn.Config(
                app,
                http=Connection,
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=_LAST_WORDS,
                ws="none",
                lifespan="on",
                **options,
            )
            config.load()
        except OSError as error:  # of the files of TLS
            raise ServerError(f"The key or certificate cannot be used ({error}). Give PEM files that belong together.") from error
        scheme = "https" if config.is_ssl else "http"
        name = f"[{host}]" if ":" in host else host
        when_bound(f"{scheme}://{name}:{listeners[0].getsockname()[1]}")
        Listening(config, served, patience, when_ready).run(sockets=listeners)
    if served.failure is not None:
        raise served.failure


def _listeners(host: str, port: int) -> list[socket.socket]:
    """One for each address of a host, all on one port: localhost may have two."""
    found: list[socket.socket] = []
    try:
        places = dict.fromkeys((family, str(at[0])) for family, *_, at in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        last = next(reversed(places))
        for family, numbers in places:
            try:
                found.append(socket.create_server((numbers, port), family=family, backlog=2048))
                port = found[0].getsockname()[1]
            except OSError as error:  # a machine without IPv6 may have a name for it
                is_the_last = (family, numbers) == last and not found
                if is_the_last or error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
        return found
    except (OSError, OverflowError) as error:
        for listener in found:
            listener.close()
        number = None if isinstance(error, socket.gaierror | OverflowError) else error.errno
        reason = first_line(error) if number is None else os.strerror(number)
        raise ServerError(f"Port {port} of {host} cannot be used ({reason}). Choose others with --port and --host.") from error
