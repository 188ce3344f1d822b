"""A small hub on this machine that takes uploads, and breaks off when it is told to."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from typing import Any


class UploadHub:
    """Repositories by name, each a dict of files.

    Attributes:
        sent: the large files that were sent, by their hashes, once for each time.
        refuses: how many large files are refused from now on.
        answers: by the beginning of a path, what is said in place of the hub's own answer.
        token: what a caller has to bring.
    """

    def __init__(self, token: str = "hf_right") -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, Any] = {}
        self.objects: dict[str, bytes] = {}
        self.sent: list[str] = []
        self.answers: dict[str, tuple[int, Any]] = {}
        self.refuses, self.token = 0, token
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                self.answer("GET")

            def do_POST(self) -> None:
                self.answer("POST")

            def do_PUT(self) -> None:
                self.answer("PUT")

            def answer(self, method: str) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Transfer-Encoding") == "chunked":
                    body = b"".join(iter(self.chunk, b""))
                status, content = hub.answer(method, self.path.partition("?")[0], body, self.headers.get("Authorization") or "")
                text = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                if "code" in content:
                    self.send_header("X-Error-Code", content["code"])
                self.end_headers()
                self.wfile.write(text)

            def chunk(self) -> bytes:
                data = self.rfile.read(int(self.rfile.readline(), 16))
                self.rfile.readline()
                return data

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, method: str, path: str, body: bytes, authorization: str) -> tuple[int, Any]:
        if method == "PUT":
            return self._take(path, body)
        if answer := next((self.answers[start] for start in self.answers if path.startswith(start)), None):
            return answer
        if authorization != f"Bearer {self.token}":
            return 401, {"error": "Invalid credentials"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            if name in self.repositories:
                return 409, {"error": "exists", "url": f"{self.address}/{name}"}
            self.repositories[name], self.private[name] = {}, asked.get("visibility") or asked.get("private")
            return 200, {"url": f"{self.address}/{name}"}
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/[^/]+", path):
            files = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".data") else "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return 200, {"files": files}
        if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            objects = [
                {"oid": o["oid"], "size": o["size"]}
                | ({} if o["oid"] in self.objects else {"actions": {"upload": {"href": f"{self.address}/lfs/{o['oid']}"}}})
                for o in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/[^/]+", path):
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.repositories[found[1]][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    self.repositories[found[1]][value["path"]] = self.objects[value["oid"]]
            sha = "d" * 40
            return 200, {"commitUrl": f"{self.address}/{found[1]}/commit/{sha}", "commitOid": sha, "success": True}
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/.*)?", path):
            if found[1] not in self.repositories:
                return 404, {"error": "Repository not found"}
            return 200, {"id": found[1], "sha": "d" * 40, "siblings": [], "private": self.private[found[1]] in (True, "private")}
        return 404, {"error": f"no {path}"}

    def _take(self, path: str, body: bytes) -> tuple[int, Any]:
        if self.refuses:
            self.refuses -= 1
            return 403, {"error": "broken off"}
        digest = hashlib.sha256(body).hexdigest()
        assert path == f"/lfs/{digest}"
        self.objects[digest] = body
        self.sent.append(digest)
        return 200, {}
