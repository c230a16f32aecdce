"""A Ray cluster of several node processes on this machine, whose workers and nodes can be killed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil

from rdvla.errors import RDVLAError

STORE = 80 * 2**20  # bytes of each node's object store
NODES = 2  # that have a processor each, next to the head, which has none
START_SECONDS = 120.0
STARTS = 5  # of a node, before that is an error: a busy machine does not start each in Ray's time
ACTOR = "ray::WorkerActor"  # begins the title of a worker of `rdvla.workers.ray`


class RayNodes:
    """The cluster; use as a context manager. Commands find it by the variable RAY_ADDRESS."""

    def __enter__(self) -> RayNodes:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        self._cluster = start_cluster()
        self._nodes = [start_node(self._cluster, num_cpus=1) for _ in range(NODES)]
        self._cluster.wait_for_nodes(timeout=START_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.shutdown()

    @property
    def environment(self) -> dict[str, str]:
        """What a command needs to find the cluster."""
        return {"RAY_ADDRESS": self._cluster.address, "RAY_USAGE_STATS_ENABLED": "0"}

    def workers(self) -> list[int]:
        """Return the processes of actors that have work to do."""
        found = []
        for node in [self._cluster.head_node, *self._nodes]:
            for started in node.all_processes.get("raylet", ()):
                with suppress(psutil.Error):
                    children = psutil.Process(started.process.pid).children(recursive=True)
                    found += [each.pid for each in children if _is_busy(each)]
        return sorted(found)

    def kill_node(self, choice: float) -> int:
        """Kill a node with all its processes, and start another in its place; return which it was.

        Args:
            choice: which of the nodes, 0..1.
        """
        number = int(choice * len(self._nodes))
        self._cluster.remove_node(self._nodes[number], allow_graceful=False)
        self._nodes[number] = start_node(self._cluster, num_cpus=1)
        return number

    def wait_until_idle(self, seconds: float) -> list[str]:
        """Wait until no actor is left; return a sentence for each that stays."""
        deadline = time.monotonic() + seconds
        while (left := self.workers()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return [f"worker {pid} was left behind on the cluster" for pid in left]


def start_cluster() -> Any:
    """Return a cluster of a head alone, which has no room for workers."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
    return _started(lambda: Cluster(initialize_head=True, head_node_args=head))


def start_node(cluster: Any, **options: Any) -> Any:
    """Add a node to a cluster, with Ray's options of it; return it."""
    return _started(lambda: cluster.add_node(object_store_memory=STORE, **options))


def _started(start: Callable[[], Any]) -> Any:
    for attempt in range(STARTS):
        before = set(psutil.Process().children(recursive=True))
        try:
            return start()
        except Exception as error:  # Ray's own kind
            for process in set(psutil.Process().children(recursive=True)) - before:
                with suppress(psutil.Error):
                    process.kill()  # half a node
            if attempt == STARTS - 1:
                raise RDVLAError(f"no node of a Ray cluster starts here: {error}") from error
    raise AssertionError("unreachable")


def _is_busy(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        words = process.cmdline()
        return bool(words) and words[0].startswith(ACTOR)
    return False
