"""pyarrow, which only Parquet files need."""

from __future__ import annotations

from typing import Any

from ..errors import BatchError
from ..outside.requirement import install


def arrow() -> tuple[Any, Any]:
    """pyarrow and its module for Parquet; BatchError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise BatchError(f"Parquet files need pyarrow, which is not installed. Run: {install('parquet')}") from error
    return pyarrow, pyarrow.parquet
