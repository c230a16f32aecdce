"""This process's connection to a Ray cluster, and what it leaves there."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import suppress
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


def delete(application: str) -> None:
    """Delete an application, and wait until it is gone: what is only asked for may be lost at a shutdown."""
    import ray
    from ray import serve

    if ray.is_initialized():
        with suppress(ray.exceptions.RayError, TimeoutError):  # the cluster is gone, and the replicas with it
            serve.delete(application)


def remove_orphans() -> None:
    """Remove the replicas of servers that were killed on this machine; others remove theirs."""
    from ray import serve

    for application in serve.status().applications:
        match application.split("_"):
            case ["rdvla", host, process, _] if host == socket.gethostname() and process.isdigit():
                if not _runs(int(process)):
                    serve.delete(application, _blocking=False)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def resources() -> str:
    """Say how much the cluster has."""
    import ray

    found = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return f"the cluster has {found.get('CPU', 0):g} CPUs and {found.get('GPU', 0):g} GPUs"


class _DropRayErrors(logging.Filter):
    """Drops what Ray's router leaves unhandled while a node dies: hundreds of tracebacks for one event."""

    def filter(self, record: logging.LogRecord) -> bool:
        from ray.exceptions import RayError

        return not (record.exc_info and isinstance(record.exc_info[1], RayError))


def quieten() -> None:
    """Keep what Ray tells of dying nodes out of the log."""
    asyncio_log = logging.getLogger("asyncio")
    if not any(isinstance(each, _DropRayErrors) for each in asyncio_log.filters):
        asyncio_log.addFilter(_DropRayErrors())
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
