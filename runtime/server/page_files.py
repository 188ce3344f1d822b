"""The page at /: files of the package, under headers that let it load and call nothing but this server."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER = Path(__file__).with_name("page")
FILES = {
    "/": ("index.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
"""Each address's file and its type."""
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


def page_routes() -> list[Route]:
    """One for each file, which is read once."""
    return [_route(path, FOLDER / name, kind) for path, (name, kind) in FILES.items() if (FOLDER / name).is_file()]


def _route(path: str, file: Path, kind: str) -> Route:
    content = file.read_bytes()

    async def send_file(_: Request) -> Response:
        return Response(content, headers=_HEADERS, media_type=kind)

    return Route(path, send_file)
