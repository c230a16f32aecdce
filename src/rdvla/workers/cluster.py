"""This process's connection to a Ray cluster."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

from rdvla.errors import ConfigError

REACH = 10.0  # seconds to find out whether anybody is at an address


class _Cluster:
    """This process's connection to Ray, which the replicas of several policies share."""

    def __init__(self) -> None:
        self._users = 0
        self._ours = False  # connected here, not by whoever calls us

    def enter(self, address: str) -> None:
        """Connect, unless somebody has.

        Raises:
            ConfigError: there is no cluster.
        """
        import ray

        if not ray.is_initialized():
            _connect(address)
            self._ours = True
        self._users += 1

    def leave(self) -> None:
        """Disconnect if nobody else needs it."""
        import ray

        self._users -= 1
        if self._users == 0 and self._ours:
            self._ours = False
            ray.shutdown()


CLUSTER = _Cluster()


def _connect(address: str) -> None:
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing about users' machines leaves them
    common: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": False,
    }
    if address == "local":
        ray.init(address="local", include_dashboard=False, **common)
        return
    try:
        if address != "auto":
            _check_reachable(address)  # Ray itself would try for minutes
        ray.init(address=address, **common)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"ray: no Ray cluster at {address!r} that this machine belongs to ({error}). Start one "
            "here with `ray start --head`, join one with `ray start --address=HOST:PORT`, or use `local`"
        ) from error


def _check_reachable(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError("an address is auto, local or HOST:PORT")
    socket.create_connection((host, int(port)), timeout=REACH).close()


def processors() -> int:
    """Return how many processors the cluster has, at least 1: others may join it."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 0)))  # type: ignore[no-untyped-call]


def gpus() -> float:
    """Return how many GPUs the cluster has."""
    import ray

    return float(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]


def resources() -> str:
    """Say how much the cluster has."""
    import ray

    found = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return f"the cluster has {found.get('CPU', 0):g} CPUs and {found.get('GPU', 0):g} GPUs"
