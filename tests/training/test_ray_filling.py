"""A cache is filled on a real Ray cluster: two node processes on this machine, one of which is killed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from rdvla.training import Trainer
from rdvla.training.features import CacheOptions, frozen_features
from rdvla.training.filling import Crew, ShardRunner, fill_cache, open_frozen
from rdvla.workers import Link, parse_workers
from tests.training.test_filling import _small_shards, frozen_config, shards  # noqa: F401

ray = pytest.importorskip("ray")

pytestmark = pytest.mark.slow
QUIET = Console(quiet=True)
LIMIT = 120
STORE = 80 * 2**20  # bytes of each node's object store


@pytest.fixture
def cluster():
    """A head without room for workers, and two nodes with room for one each."""
    from ray.cluster_utils import Cluster

    found = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False},
    )
    nodes = [found.add_node(num_cpus=1, object_store_memory=STORE) for _ in range(2)]
    found.wait_for_nodes(timeout=LIMIT)
    yield found, nodes
    ray.shutdown()
    found.shutdown()


def test_two_nodes_fill_a_cache_with_the_same_bits_though_one_is_killed(
    cluster, dataset: Path, tmp_path: Path
) -> None:
    found, nodes = cluster
    Trainer(frozen_config(dataset, tmp_path / "alone"), console=QUIET)
    expected = shards(tmp_path / "alone/cache")
    choice = parse_workers("ray:2", ray=found.address)
    fill_cache(frozen_config(dataset, tmp_path / "run"), choice, console=QUIET)
    assert shards(tmp_path / "run/cache") == expected

    config, folder = frozen_config(dataset, tmp_path / "killed"), tmp_path / "killed/cache"
    policy, opened = open_frozen(config)
    with choice.transport() as (transport, workers):

        class Killing:
            """Kills a node once a worker has begun to compute."""

            killed = False

            def start(self, number: int, runner: ShardRunner) -> Link:
                return transport.start(number, runner)

            def wait(self, links: Sequence[Link], timeout: float | None = None) -> list[Link]:
                ready = transport.wait(links, timeout)
                if ready and not self.killed:
                    self.killed = True
                    found.remove_node(nodes[0], allow_graceful=False)
                return ready

        killing = Killing()
        crew = Crew(ShardRunner(config, folder), killing, workers)
        options = CacheOptions(folder, batch_size=5, memory_limit=0, console=QUIET, fill=crew.fill)
        frozen_features(policy, opened, options)
    assert killing.killed and shards(folder) == expected
