"""The processor replayed against the reference's goldens, with nothing but the runtime."""

from __future__ import annotations

import json

import pytest
from goldens import GOLDENS, cases, replay

EXPECTED = json.loads(GOLDENS.read_text())


@pytest.fixture(scope="module")
def made():
    return list(zip(cases(), EXPECTED, strict=True))


@pytest.mark.parametrize("number", range(len(EXPECTED)))
def test_golden(number, made):
    replay(*made[number])
