"""A cache is filled on a real Ray cluster: two node processes on this machine, one of which is killed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from rdvla.training import Trainer
from rdvla.training.filling import fill_cache
from rdvla.workers import Link, parse_workers
from tests.support.ray_cluster import local_cluster
from tests.training.test_filling import _small_shards, frozen_config, shards  # noqa: F401

pytest.importorskip("ray")

pytestmark = pytest.mark.slow
QUIET = Console(quiet=True)


def test_two_nodes_fill_a_cache_with_the_same_bits_though_one_is_killed(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rdvla.workers.ray import RayWorkers

    Trainer(frozen_config(dataset, tmp_path / "alone"), console=QUIET)
    with local_cluster({"num_cpus": 1}, {"num_cpus": 1}) as cluster:
        killed = list[object]()
        wait = RayWorkers.wait

        def wait_and_kill(
            workers: RayWorkers, links: Sequence[Link], timeout: float | None = None
        ) -> list[Link]:
            """Kill a node once a worker has begun to compute."""
            ready = wait(workers, links, timeout)
            if ready and not killed:
                killed.append(cluster.nodes[0])
                cluster.kill_node(cluster.nodes[0])
            return ready

        monkeypatch.setattr(RayWorkers, "wait", wait_and_kill)
        choice = parse_workers("ray:2", ray=cluster.address)
        fill_cache(frozen_config(dataset, tmp_path / "killed"), choice, console=QUIET)
    assert killed
    assert shards(tmp_path / "killed/cache") == shards(tmp_path / "alone/cache")
