"""What a server takes, from whom, and how long it waits."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlsplit

from .. import checks as values
from ..errors import PromptError
from ..generation.scheduler import DEFAULT_ROWS
from .allowed_domains import AllowedDomains

DEFAULT_MAX_BODY = 32 << 20
"""Bytes: a picture of 24 MB in base64, or several of a phone's."""
DEFAULT_MAX_PIXELS = 100_000_000
"""Eight pictures of a phone's 12 megapixels. Decoding them takes 700 MB at most, in each of the two preparing threads."""


@dataclass(frozen=True)
class Settings:
    """PromptError if one is wrong."""

    name: str | None = None
    """What clients call the model; None is the folder's name."""
    any_model: bool = False
    """Answer requests for any model's name with this one."""
    rows: int = DEFAULT_ROWS
    """Answers that run at once at most."""
    queue: int = 128
    """Requests that wait at most; one more is told to come back later."""
    cache_bytes: int | None = None
    """What the running answers' keys and values may take; None is the scheduler's choice."""
    api_keys: tuple[str, ...] = ()
    """Any of them opens all but /, /health and /ready; none is asked for where there are none."""
    any_host: bool = False
    """Without a key, answer requests under any host's name and from any site's page, not only under this machine's own names."""
    cors: tuple[str, ...] = ()
    """Origins whose pages may call, such as https://example.org; "*" for all."""
    max_body: int = DEFAULT_MAX_BODY
    """Bytes of a request's body."""
    max_held: int = 1 << 30
    """Bytes of the bodies and pictures of all requests that are under way."""
    max_images: int = 64
    """Pictures of a request."""
    max_pixels: int = DEFAULT_MAX_PIXELS
    """Pixels of a request's pictures together."""
    max_messages: int = 1024
    allow_image_urls: tuple[str, ...] = ()
    """Domains that pictures are fetched from."""
    timeout: float = 600.0
    """Seconds that a request may take, waiting included."""
    body_timeout: float = 60.0
    """Seconds in which its body has to come."""
    keep_alive: float = 10.0
    """Seconds without a word after which a stream says a comment."""
    log_texts: bool = False
    """Whether prompts and answers stand in the log; pictures never do."""

    def __post_init__(self) -> None:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        values.checked("setting", _CHECKS, {name: value for name, value in given.items() if value is not None})


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, tuple) or not all(isinstance(one, str) and one for one in value):
        raise PromptError(f"{name} is {value!r:.60}. Give a tuple of strings.")
    return value


def _keys(name: str, value: Any) -> tuple[str, ...]:
    for key in _texts(name, value):
        if not key.isascii() or not key.isprintable() or " " in key:
            raise PromptError(f"{name} has a key of {len(key)} characters that no header can hold. Use ASCII without spaces.")
    return tuple(value)


def _origins(name: str, value: Any) -> tuple[str, ...]:
    for origin in _texts(name, value):
        parts = urlsplit(origin)
        if origin != "*" and not (parts.scheme and parts.netloc and origin == f"{parts.scheme}://{parts.netloc}"):
            raise PromptError(f"{name} has {origin!r:.60}. Give an origin such as https://example.org, without a path, or *.")
    return tuple(value)


def _domains(name: str, value: Any) -> tuple[str, ...]:
    AllowedDomains(_texts(name, value))
    return tuple(value)


def _name(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > 200:
        raise PromptError(f"{name} is {value!r:.60}. Give a name of 1 to 200 characters.")
    return value


_CHECKS: dict[str, values.Check] = {
    "name": _name,
    "any_model": values.flag,
    "rows": values.whole(1, 4096),
    "queue": values.whole(1),
    "cache_bytes": values.whole(1, 1 << 62),
    "api_keys": _keys,
    "any_host": values.flag,
    "cors": _origins,
    "max_body": values.whole(1, 1 << 40),
    "max_held": values.whole(1, 1 << 50),
    "max_images": values.whole(0),
    "max_pixels": values.whole(1, 1 << 62),
    "max_messages": values.whole(1),
    "allow_image_urls": _domains,
    "timeout": values.number(0.001, 1e6),
    "body_timeout": values.number(0.001, 1e6),
    "keep_alive": values.number(0.001, 1e6),
    "log_texts": values.flag,
}
