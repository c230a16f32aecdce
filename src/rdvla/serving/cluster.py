"""What a server leaves on a Ray cluster, and what Ray Serve says of it."""

from __future__ import annotations

import logging
import socket
from contextlib import suppress

from rdvla.workers.processes import process_runs


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
                if not process_runs(int(process)):
                    serve.delete(application, _blocking=False)


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
