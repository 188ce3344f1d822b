"""Ray on this machine for a while, or a cluster that runs already."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from ..runtime.errors import first_line
from .errors import RayError
from .opening import Opening

LOCAL = "local"
_OBJECTS = 256 << 20
"""Bytes of blocks that Ray holds on this machine; more go to the disk."""


_PATIENCE = 5.0
"""Seconds that a head has to answer in."""


@contextmanager
def cluster(address: str, opening: Opening, actors: int) -> Iterator[None]:
    """Be connected.

    Args:
        address: of a cluster's head, as host:port; auto for the one that this machine is part of; or local, which starts Ray
            here, for this process only.

    Raises:
        RayError: there is no such cluster, or it has too little for so many actors.
    """
    if address == LOCAL and opening.cpus > (cores := os.cpu_count() or 1):
        raise RayError(
            f"An actor is to have {opening.cpus:,} cores, and this machine has {cores}. Give fewer with --ray-cpus-per-actor."
        )
    if "://" in address:
        raise RayError(
            f"{address!r:.100} is for Ray's client, which its Data does not run with. Type the command on a machine of the "
            "cluster, with --ray auto."
        )
    if address not in (LOCAL, "auto"):
        _check_listens(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or it tells its makers of each run
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what matters of it comes as an exception, too
    try:
        if address == LOCAL:
            ray.init(
                LOCAL,
                num_cpus=actors * opening.cpus + 1,  # one to read questions with; the cores themselves are shared
                object_store_memory=_OBJECTS,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _node_ip_address="127.0.0.1",
            )
        else:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise _no_ray(address, error) from error
    try:
        _check_room(opening, actors)
        yield
    finally:
        ray.shutdown()


def _check_listens(address: str) -> None:
    """Ray itself would try for two minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        raise _no_ray(address, ValueError("it has no port"))
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _PATIENCE):
            return
    except (OSError, ValueError, OverflowError) as error:
        raise _no_ray(address, error) from error


def _no_ray(address: str, error: Exception) -> RayError:
    return RayError(
        f"There is no Ray at {address!r:.100} ({first_line(error)}). Give a head's address as host:port, auto on a machine of "
        "its cluster, or local."
    )


def _check_room(opening: Opening, actors: int) -> None:
    """Ray would wait for it without an end."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    needed = {"CPU": opening.cpus, "memory": opening.memory, "GPU": opening.gpus}
    rooms = [min(int(node.get(name, 0) // much) for name, much in needed.items() if much) for node in nodes]
    if (room := sum(rooms)) < actors:
        each = f"{opening.cpus} CPU{'s' * (opening.cpus != 1)} and {opening.memory / 1e9:.1f} GB of memory"
        each = f"a GPU, {each}" if opening.gpus else each
        raise RayError(
            f"{len(nodes)} node{'s' * (len(nodes) != 1)} of Ray's {'have' if len(nodes) != 1 else 'has'} room for {room} of "
            f"{actors} actors, each with {each}. Give fewer with --ray-actors, a smaller --batch-size, or more nodes."
        )
