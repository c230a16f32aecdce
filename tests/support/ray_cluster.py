"""A Ray cluster of several node processes on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.faults.cluster import start_cluster, start_node

LIMIT = 300.0  # seconds after which a test gives up


class LocalCluster:
    """A head without room for workers, and nodes that come and go.

    Attributes:
        nodes: those that it began with.
    """

    def __init__(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        self._cluster = start_cluster()
        self.nodes = [self.add_node(**each) for each in nodes]
        self.wait_for_nodes()

    @property
    def address(self) -> str:
        """HOST:PORT."""
        address: str = self._cluster.address
        return address

    def add_node(self, **options: Any) -> Any:
        """Start another node; `wait_for_nodes` waits until it takes workers."""
        return start_node(self._cluster, **options)

    def wait_for_nodes(self) -> None:
        """Wait until every node takes workers."""
        self._cluster.wait_for_nodes(timeout=LIMIT)

    def kill_node(self, node: Any) -> None:
        """Kill a node, with all that runs there, as a power cut does."""
        self._cluster.remove_node(node, allow_graceful=False)

    def close(self) -> None:
        """End this process's connection, and all nodes."""
        import ray

        ray.shutdown()
        self._cluster.shutdown()


@contextmanager
def local_cluster(*nodes: Mapping[str, Any]) -> Iterator[LocalCluster]:
    """Start a cluster of a head without room for workers, and these nodes (Ray's options of each)."""
    cluster = LocalCluster(nodes)
    try:
        yield cluster
    finally:
        cluster.close()
