"""A small hub on this machine that stands in for the real one, and answers as badly as it is told to."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
import urllib.parse
from collections.abc import Callable

import pytest

SHA = "c" * 40
Answer = tuple[int, dict[str, str], bytes]


class Hub:
    """Serves files of one repository, or what `fault` says for a path.

    Attributes:
        served: names of the files that were asked for.
    """

    def __init__(self, files: dict[str, bytes], fault: Callable[[str], Answer | bytes | None] = lambda path: None) -> None:
        self.files, self.fault, self.served = files, fault, list[str]()
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                self.respond(True)

            def do_HEAD(self) -> None:
                self.respond(False)

            def do_CONNECT(self) -> None:
                self.respond(True)

            def respond(self, whole: bool) -> None:
                path = urllib.parse.unquote(self.path.partition("?")[0])
                answer = hub.fault(path) or hub.answer(path, whole)
                if isinstance(answer, bytes):  # whatever it is, then the end
                    self.wfile.write(answer)
                    self.close_connection = True
                    return
                status, headers, body = answer
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                if whole:
                    self.wfile.write(body)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, path: str, whole: bool) -> Answer:
        json_type = {"Content-Type": "application/json"}
        tree = [{"type": "file", "path": n, "size": len(b), "oid": hashlib.sha1(b).hexdigest()} for n, b in self.files.items()]
        if path.startswith("/api/models/someone/tuned/tree/"):
            return 200, json_type, json.dumps(tree).encode()
        if path.startswith("/api/models/someone/tuned"):
            files = [{"rfilename": name} for name in self.files]
            return 200, json_type, json.dumps({"id": "someone/tuned", "sha": SHA, "siblings": files}).encode()
        if path.startswith("/api/"):
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        name = path.partition("/resolve/")[2].partition("/")[2]
        if name not in self.files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        if whole:
            self.served.append(name)
        content = self.files[name]
        return 200, {"X-Repo-Commit": SHA, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}, content


def connect(monkeypatch: pytest.MonkeyPatch, address: str, cache: str) -> None:
    """Let huggingface_hub take this address for the hub's, with an empty cache and without what the environment says."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    close_session()
