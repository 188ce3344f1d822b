"""What may go wrong on a cluster, besides what may go wrong on one machine."""

from __future__ import annotations

from ..graphs.errors import Idefics2OnnxError


class RayError(Idefics2OnnxError):
    """Ray is missing, a cluster cannot be used, or a worker on it ended."""
