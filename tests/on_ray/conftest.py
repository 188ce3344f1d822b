"""Ray on this machine, for all tests of a file."""

from __future__ import annotations

import pytest
from ray_here import ray_here


@pytest.fixture(scope="module")
def on_ray():
    with ray_here():
        yield
