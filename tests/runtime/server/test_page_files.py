"""The page at /."""

from __future__ import annotations

from idefics2_onnx.runtime.server.page_files import FILES, FOLDER

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)


def test_files_come_under_a_strict_policy(called):
    client = called()
    for path, (name, kind) in FILES.items():
        if not (FOLDER / name).is_file():
            continue
        response = client.get(path)
        assert response.content == (FOLDER / name).read_bytes()
        assert response.headers["content-type"].startswith(kind)
        assert response.headers["content-security-policy"] == POLICY
        assert response.headers["x-content-type-options"] == "nosniff"
    assert client.get("/").status_code == 200
    for path in ("/index.html", "/page/index.html", "/../settings.py", "/%2e%2e/settings.py"):
        assert client.get(path).status_code == 404
