"""Forms: pictures as files beside what is asked, as `curl -F image=@photo.jpg -F prompt=…` sends them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from python_multipart.multipart import parse_options_header  # Starlette's parser stands on it, too
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from ..errors import shown
from .budget import Hold
from .json_text import read_json_within
from .problem import Problem
from .settings import Settings

TEXTS = ("prompt", "detail")
"""Parts that are texts, under the names that they have in JSON."""


class _Parser(MultiPartParser):
    """Starlette's takes a form that breaks off for a whole one without its last part."""

    is_whole = False

    def on_end(self) -> None:
        self.is_whole = True


async def read_form(
    request: Request, pieces: AsyncGenerator[bytes, None], settings: Settings, hold: Hold
) -> tuple[Any, list[bytes]]:
    """The JSON of its part `request` with its texts, and the files of its parts `image`; nothing of it touches the disk.

    Raises:
        Problem: 400 for a damaged form, or for a part that is not known.
    """
    _check_charset(request.headers["content-type"])
    parser = _Parser(
        request.headers, pieces, max_files=settings.max_images, max_fields=1 + len(TEXTS), max_part_size=settings.max_body
    )
    parser.spool_max_size = settings.max_body + 1
    try:
        form = await parser.parse()
        if not parser.is_whole:
            raise MultiPartException("it has no end")
        value, texts, uploads = await _parts(form, hold)
    except MultiPartException as error:
        raise Problem(400, f"The form cannot be read ({error.message.rstrip('.')}). Send it again.", "invalid_form") from error
    if not isinstance(value, dict):
        raise Problem(400, "The form's part request is no object. Send a JSON object.", "invalid_form", "request")
    if both := texts.keys() & value.keys():
        raise Problem(400, f"{min(both)} stands in the form and in its part request. Send one.", "invalid_form", min(both))
    return value | texts, uploads


def _check_charset(kind: str) -> None:
    """Raise Problem for another one than UTF-8: Python's has some, as punycode, that take hours for a megabyte."""
    charset = parse_options_header(kind)[1].get(b"charset", b"utf-8")
    if charset.lower() not in (b"utf-8", b"utf8", b"us-ascii"):
        raise Problem(400, f"The form's texts are in {shown(charset.decode('latin-1'), 60)}. Send UTF-8.", "invalid_form")


async def _parts(form: FormData, hold: Hold) -> tuple[Any, dict[str, str], list[bytes]]:
    """The JSON, the texts and the pictures."""
    value: Any = {}
    texts: dict[str, str] = {}
    uploads = []
    for name, part in form.multi_items():
        if name == "image" and isinstance(part, UploadFile):
            uploads.append(await part.read())
        elif name == "request":
            content = await part.read() if isinstance(part, UploadFile) else part.encode()
            value = await read_json_within(hold.take, content)
        elif name in TEXTS and isinstance(part, str):
            texts[name] = part
        else:
            raise Problem(
                400,
                f"The form has the part {name!r:.60}. Send the files image, the texts {', '.join(TEXTS)}, and request with JSON.",
                "invalid_form",
                name[:60],
            )
    await form.close()
    return value, texts, uploads
