"""The same work on a cluster, by Ray: its Data for tables, its Serve for HTTP. Needs the extra `ray`.

    from idefics2_onnx.on_ray import map_batches    # answers as columns of a Ray dataset
    serve run idefics2_onnx.on_ray:deployment       # the server in replicas

Imports the runtime; of the runtime nothing imports this, nor Ray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pipeline import map_batches
    from .serving import deployment

__all__ = ["deployment", "map_batches"]

_HOMES = {"deployment": "serving", "map_batches": "pipeline"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: Data and Serve need not know each other."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name!r:.60}")
    from .installed import check_installed

    check_installed()
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
