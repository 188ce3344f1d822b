"""Ray on this machine, and the server in its replicas, for tests that are marked `scale`."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from live_server import Live

MODEL = "idefics2-demo"
os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "idefics2_onnx.on_ray.proxy:middlewares",
}


@contextmanager
def ray_here() -> Iterator[None]:
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
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def proxy() -> Iterator[str]:
    """Its address; no application is there yet."""
    from ray import serve

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()


def deploy(replicas: int = 2, **arguments: Any) -> None:
    """Run, or go over to, an application with these arguments."""
    from idefics2_onnx.on_ray import deployment
    from ray import serve

    deployment = deployment({"name": MODEL, **arguments})._bound_deployment
    serve.run(deployment.options(num_replicas=replicas).bind(*deployment.init_args), name="pictures")


@contextmanager
def live_on_ray(**settings: Any) -> Iterator[Live]:
    """Two replicas behind the proxy, as `live` has one server; what they share is in their processes."""
    with ray_here(), proxy() as address:
        deploy(**settings)
        yield Live(address, None)
