"""Ray, which only this room needs."""

from __future__ import annotations

from importlib.util import find_spec

from ..runtime.outside.requirement import install
from .errors import RayError


def check_installed() -> None:
    """RayError where Ray is not installed."""
    try:
        found = find_spec("ray")
    except ImportError:
        found = None
    if found is None:
        raise RayError(f"This needs Ray, which is not installed. Run: {install('ray')}")
