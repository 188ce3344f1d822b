"""Named files of a repository on the Hugging Face hub, downloaded into the hub's cache; every failure is one sentence."""

from __future__ import annotations

import errno
import glob
import os
import re
from collections.abc import Collection, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import TypeAlias

from .errors import Idefics2OnnxError, ModelFolderError, first_line

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""``owner/name``."""
_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"
_PROXY = "Check the proxy in HTTPS_PROXY, HTTP_PROXY and ALL_PROXY"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNREACHABLE = ("ConnectError", "TimeoutException", "NetworkError", "ProtocolError", "TransportError")
"""Of httpx, whose name changes between versions of huggingface_hub."""
Chain: TypeAlias = list[BaseException]
"""An exception and those that it was raised from, the first cause last."""
Explanation: TypeAlias = tuple[str, str]
"""What went wrong, and what to do about it."""


def download(hub_id: str, revision: str | None, names: Collection[str], needed: Collection[Collection[str]] = ()) -> Path:
    """Those of the named files that a repository has, in a folder that is named after its commit.

    Args:
        revision: branch, tag or commit; None for the main branch.
        names: paths inside the repository. Nothing else is asked for.
        needed: sets of names; one of each set has to be in a cache that is used without a connection.

    Raises:
        ModelFolderError: they could not be had; it says why, and what to do.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(hub_id, revision=revision, allow_patterns=[glob.escape(name) for name in names]))
    except Exception as error:  # of huggingface_hub, httpx, the system and, where something else answered, of any reader
        raise _failed(hub_id, revision, error) from error
    lacking = [next(iter(choice)) for choice in needed if not any((folder / name).is_file() for name in choice)]
    if lacking and (unreached := _offline(hub_id, folder.name)) is not None:
        raise _partial(hub_id, ", ".join(lacking), unreached) from unreached
    return folder


def _offline(hub_id: str, commit: str) -> Exception | None:
    """Why the hub cannot be asked what else a repository has; None if it can, and what is not here is not there either."""
    from huggingface_hub import HfApi

    try:
        HfApi().list_repo_files(hub_id, revision=commit)
    except Exception as error:
        return error
    return None


def _partial(hub_id: str, lacking: str, error: Exception) -> ModelFolderError:
    reason, advice = _explained(hub_id, None, error)
    return ModelFolderError(
        f"The hub's cache here holds only part of {hub_id} (it lacks {lacking}), and the rest could not be downloaded "
        f"({reason}). Go online once. {advice}."
    )


def _failed(hub_id: str, revision: str | None, error: Exception) -> Idefics2OnnxError:
    if hasattr(error, "snapshot_path"):  # an IncompleteSnapshotError, which older versions of huggingface_hub do not have
        found = re.search(r"missing[^:]*: (.+?)(?:\. |\n|$)", str(error))
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        return _partial(hub_id, found[1] if found else "some files", cause)
    reason, advice = _explained(hub_id, revision, error)
    return ModelFolderError(
        f"{hub_id} is not a folder here and could not be downloaded from the hub ({reason}). {advice}, or give a folder."
    )


def _explained(hub_id: str, revision: str | None, error: Exception) -> Explanation:
    chain = list(_chain(error))
    for explain in (_refused, _offline_mode, _by_proxy, _by_system, _by_status, _no_answer):
        if explained := explain(hub_id, revision, chain):
            return explained
    if any(isinstance(each, ValueError | TypeError | KeyError | AttributeError | AssertionError) for each in chain):
        return (
            f"what answered is not the hub: {first_line(chain[-1])}",
            "If the network has a sign-in page, open it in a browser; check HF_ENDPOINT if it is set",
        )
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
            return "there is no such repository, or it is private", f"Check the name; for a private one, {_LOG_IN}"
        if isinstance(error, errors.RevisionNotFoundError):
            return f"it has no revision {revision!r:.100}", "Name a branch, tag or commit of it with --revision"
        if isinstance(error, errors.DisabledRepoError):
            return "its owner has switched it off", f"See {page}"
        if isinstance(error, errors.HFValidationError):
            return first_line(error), "Check the name"
    return None


def _offline_mode(_hub_id: str, _revision: str | None, chain: Chain) -> Explanation | None:
    from huggingface_hub.errors import OfflineModeIsEnabled

    if any(isinstance(error, OfflineModeIsEnabled) for error in chain):
        return "HF_HUB_OFFLINE is set", "Unset HF_HUB_OFFLINE while downloading"
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

    for error in chain:
        if isinstance(error, ssl.SSLError) or "CERTIFICATE_VERIFY_FAILED" in str(error):
            return f"the server's certificate cannot be trusted: {first_line(error)}", (
                "Name a proxy's or company's own certificates in SSL_CERT_FILE, and check the clock"
            )
        if isinstance(error, OSError) and error.errno in _FULL:
            return f"{constants.HF_HUB_CACHE} is full", "Free some space, or name another place with HF_HOME"
        if isinstance(error, OSError) and error.filename and not _named(error, "HTTPError", "EntryNotFoundError"):
            return f"the hub's cache cannot be written: {first_line(error)}", "Name another place with HF_HOME"
    return None


def _by_status(_hub_id: str, _revision: str | None, chain: Chain) -> Explanation | None:
    status = next(
        (int(response.status_code) for error in chain if (response := getattr(error, "response", None)) is not None), None
    )
    if status is None:
        return None
    name = f"{status} {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else str(status)
    if status == 401:
        return f"{name}: the token is not valid", f"Make a new one on the hub and {_LOG_IN}"
    if status == 403:
        return name, f"Look whether a proxy or the token forbids it, and {_LOG_IN}"
    if status == 404:
        return name, "Check the name, and HF_ENDPOINT if it is set"
    if status == 407:
        return f"{name}: the proxy asks for a password", "Write it in HTTPS_PROXY=http://name:password@host:port"
    if status == 429:
        return f"{name} from this address", f"Wait some minutes, or {_LOG_IN}: that raises the limit"
    if status >= 500:
        return f"{name}: the hub has trouble", "Try again later"
    return name, "Check the name and the connection"


def _no_answer(_hub_id: str, _revision: str | None, chain: Chain) -> Explanation | None:
    for error in chain:
        if _named(error, "UnsupportedProtocol", "InvalidURL", "LocalProtocolError"):
            return f"the hub's address is none: {first_line(error)}", "Check HF_ENDPOINT and the proxies that are set"
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
