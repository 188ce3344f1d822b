"""What is compared of each model: the place that chooses."""

from __future__ import annotations

from ...graphs.contract import Architecture
from .comparison import Comparison
from .idefics.comparison import IDEFICS
from .idefics2.comparison import IDEFICS2

COMPARISONS: dict[Architecture, Comparison] = {"idefics2": IDEFICS2, "idefics": IDEFICS}
