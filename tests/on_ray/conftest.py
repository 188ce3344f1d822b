"""Ray on this machine, for all tests of a process."""

from __future__ import annotations

import os

import pytest

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_SERVE_LOG_TO_STDERR": "0"}


@pytest.fixture(scope="module")
def on_ray():
    """With four CPUs in name: two are too few for what Ray runs beside two actors."""
    import ray

    ray.init(
        "local",
        num_cpus=4,
        object_store_memory=128 << 20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _node_ip_address="127.0.0.1",
    )
    yield
    ray.shutdown()
