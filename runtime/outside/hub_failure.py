"""Why a call of the hub failed, in words, and what to do about it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from http import HTTPStatus
from typing import TypeAlias

from ..errors import first_line

_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"
_PROXY = "Check the proxy in HTTPS_PROXY, HTTP_PROXY and ALL_PROXY"
_CERTIFICATES = "Name a company's or proxy's certificates in SSL_CERT_FILE, and check the clock"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNREACHABLE = ("ConnectError", "TimeoutException", "NetworkError", "ProtocolError", "TransportError")
"""Names of errors of the HTTP library, which changes between versions of huggingface_hub."""
_NOT_THE_HUB = (
    "what answered is not the hub",
    "If the network has a sign-in page, open it in a browser; check HF_ENDPOINT if it is set",
)
Chain: TypeAlias = list[BaseException]
"""An exception and those that it was raised from, the first cause last."""
Explanation: TypeAlias = tuple[str, str]
"""What went wrong, and what to do about it."""


def explain(hub_id: str, revision: str | None, error: Exception) -> Explanation:
    """What an exception that came out of huggingface_hub means for a download."""
    chain = list(_chain(error))
    for reader in (_refused, _offline_mode, _by_proxy, _by_system, _by_status, _no_answer):
        if explained := reader(hub_id, revision, chain):
            return explained
    if any(isinstance(each, ValueError | TypeError | KeyError | AttributeError | AssertionError) for each in chain):
        return _NOT_THE_HUB
    return first_line(error), "Check the name and the connection"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        error = error.__cause__ or error.__context__
    yield from seen


def _refused(hub_id: str, revision: str | None, chain: Chain) -> Explanation | None:
    """What the hub itself says of a repository."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{hub_id}"
    for error in chain:
        if isinstance(error, errors.GatedRepoError):
            return "its owner grants access", f"Ask for access at {page}, then {_LOG_IN}"
        if isinstance(error, errors.RepositoryNotFoundError):
            return (
                "there is no such repository, or it is private",
                f"Check the name, or give a folder; for a private one, {_LOG_IN}",
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return f"it has no revision {revision or 'main'!r:.100}", "Name a branch, tag or commit of it with --revision"
        if isinstance(error, errors.DisabledRepoError):
            return "its owner has switched it off", f"See {page}"
        if isinstance(error, errors.HFValidationError):
            return first_line(error), "Check the name"
    return None


def _offline_mode(_hub_id: str, _revision: str | None, chain: Chain) -> Explanation | None:
    from huggingface_hub.errors import OfflineModeIsEnabled

    if any(isinstance(error, OfflineModeIsEnabled) for error in chain):
        return "HF_HUB_OFFLINE is set", "Go online once, without HF_HUB_OFFLINE"
    return None


def _by_proxy(_hub_id: str, _revision: str | None, chain: Chain) -> Explanation | None:
    for error in chain:
        text = first_line(error)
        if isinstance(error, ImportError) and "socks" in text.lower():
            return (
                "a SOCKS proxy is set, and the package socksio is not installed",
                "Run: pip install socksio, or unset ALL_PROXY",
            )
        if _named(error, "ProxyError"):
            if text.startswith("407"):
                return "the proxy asks for a password", "Write it in HTTPS_PROXY=http://name:password@host:port"
            return f"the proxy refused: {text}", _PROXY
        if isinstance(error, ValueError) and "proxy" in text.lower():
            return f"the proxy's address is none: {text}", _PROXY
    return None


def _by_system(_hub_id: str, _revision: str | None, chain: Chain) -> Explanation | None:
    """Errors of the disk under the cache, and of certificates."""
    import ssl

    from huggingface_hub import constants

    for error in reversed(chain):
        if "CERTIFICATE" in str(error):
            return f"the server's certificate cannot be trusted: {first_line(error)}", _CERTIFICATES
        if isinstance(error, ssl.SSLError):
            return f"no secure connection: {first_line(error)}", f"Check HF_ENDPOINT if it is set. {_PROXY}"
        if type(error) is FileNotFoundError and error.filename is None:
            return "there is no file of certificates where one is named", _CERTIFICATES
        if isinstance(error, OSError) and error.errno in _FULL:
            return f"{constants.HF_HUB_CACHE} is full", "Free some space, or name another place with HF_HOME"
        if isinstance(error, OSError) and error.filename and not _named(error, "HTTPError", "EntryNotFoundError"):
            return f"the hub's cache cannot be written: {first_line(error)}", "Name another place with HF_HOME"
    return None


def _by_status(_hub_id: str, _revision: str | None, chain: Chain) -> Explanation | None:
    answered = next((error for error in chain if getattr(error, "response", None) is not None), None)
    if answered is None:
        return None
    status = int(answered.response.status_code)  # type: ignore[attr-defined]
    name = f"{status} {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else str(status)
    said = str(getattr(answered, "server_message", None) or "").strip()
    refused = f"{name}: {first_line(ValueError(said))}" if said else name
    if status == 401:
        return f"{name}: there is no token, or it is not valid", f"Make one at the hub and {_LOG_IN}"
    if status == 403:
        return refused, f"Look whether a proxy or the token forbids it, and {_LOG_IN}"
    if status == 404:
        return name, "Check the name, or give a folder; check HF_ENDPOINT if it is set"
    if status == 407:
        return f"{name}: the proxy asks for a password", "Write it in HTTPS_PROXY=http://name:password@host:port"
    if status == 429:
        return f"{name} from this address", f"Wait some minutes, or {_LOG_IN}: that raises the limit"
    if status >= 500:
        return f"{name}: the hub has trouble", "Try again later"
    return refused, "Check the name and the connection"


def _no_answer(_hub_id: str, _revision: str | None, chain: Chain) -> Explanation | None:
    for error in chain:
        if _named(error, "FileMetadataError"):
            return _NOT_THE_HUB
        if _named(error, "UnsupportedProtocol", "InvalidURL", "LocalProtocolError"):
            return (
                f"the address of the hub or of a proxy is none: {first_line(error)}",
                f"Check HF_ENDPOINT if it is set. {_PROXY}",
            )
        if isinstance(error, UnicodeEncodeError) or "null" in str(error):
            return f"no such name can be: {first_line(error)}", "Check the name, --revision and HF_HOME"
        if _named(error, "TooManyRedirects"):
            return "the server sends in circles", "Check HF_ENDPOINT if it is set"
        if _named(error, *_UNREACHABLE) or type(error) in (ConnectionError, TimeoutError):
            return (
                f"no connection: {first_line(error)}",
                f"Check the connection. {_PROXY}" if _proxied() else "Check the connection",
            )
    return None


def _named(error: BaseException, *names: str) -> bool:
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _proxied() -> bool:
    return any(value for name, value in os.environ.items() if name.lower() in ("http_proxy", "https_proxy", "all_proxy"))
