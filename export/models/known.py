"""The models that can be exported: the place that chooses."""

from __future__ import annotations

from typing import Any

from .family import Family
from .idefics.family import IDEFICS
from .idefics2.family import IDEFICS2

FAMILIES: dict[str, Family] = {family.name: family for family in (IDEFICS2, IDEFICS)}


def family_of(config: Any) -> Family:
    """The family of a config that one of them has loaded."""
    return FAMILIES[config.model_type]
