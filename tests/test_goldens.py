"""The processor replayed against the reference's goldens, with nothing but the runtime."""

from __future__ import annotations

import json

import pytest
from goldens import GOLDENS, cases, replay

EXPECTED = json.loads(GOLDENS.read_text())


@pytest.mark.parametrize(("case", "golden"), list(zip(cases(), EXPECTED, strict=True)), ids=range(len(EXPECTED)))
def test_golden(case, golden):
    replay(case, golden)
