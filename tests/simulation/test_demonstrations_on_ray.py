"""Demonstrations on a real Ray cluster of several node processes: the dataset is the one of one process."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from rdvla.simulation.demonstrations import DemonstrationConfig, generate
from rdvla.simulation.demonstrations.ledger import Ledger
from tests.support.kill_events import content
from tests.support.ray_cluster import LIMIT, local_cluster

ray = pytest.importorskip("ray")
pytest.importorskip("metaworld")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning"),  # inside Ray
]


@pytest.fixture(scope="module")
def cluster():
    """A head without room for workers and two nodes with room for one each."""
    with local_cluster({"num_cpus": 1}, {"num_cpus": 1}) as found:
        yield found


def config(output: Any, **changes: Any) -> DemonstrationConfig:
    options: dict[str, Any] = {
        "tasks": ("reach-v3", "drawer-close-v3"),
        "episodes_per_task": 3,
        "cameras": ("side",),
        "image_size": 32,
        "camera_stride": 20,
        "steps_after_success": 2,
        "noise_levels": (0.2,),
        "max_steps": 200,
    }
    return DemonstrationConfig(output=output, **(options | changes))


def test_a_killed_node_and_other_workers_change_no_byte_of_the_dataset(cluster, tmp_path):
    """It dies once the first episode is here."""
    expected = generate(config(tmp_path / "here", workers=1), show_progress=False)

    output, staged = tmp_path / "there", tmp_path / ".there.staging" / "episodes"
    whole, dead = threading.Event(), list[Any]()

    def kill_one() -> None:
        deadline = time.monotonic() + LIMIT
        while not whole.is_set() and time.monotonic() < deadline:
            if staged.is_dir() and any(path.name.isdigit() for path in staged.iterdir()):
                mine = ray.get_runtime_context().get_node_id()  # this process belongs to one of them
                dead.append(next(node for node in cluster.nodes if node.node_id != mine))
                cluster.kill_node(dead[0])
                return
            time.sleep(0.02)

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        report = generate(config(output, workers="ray:2", ray=cluster.address), show_progress=False)
    finally:
        whole.set()
        killer.join(LIMIT)
    assert dead
    assert report.tasks == expected.tasks
    assert content(output) == content(expected.root)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "there"]


def test_an_interrupted_generation_goes_on_with_workers_of_another_kind(cluster, tmp_path, monkeypatch):
    expected = generate(config(tmp_path / "here", workers=1, episodes_per_task=1), show_progress=False)
    output = tmp_path / "there"

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Ledger, "record", interrupted)
        generate(
            config(output, workers="ray:1", ray=cluster.address, episodes_per_task=1), show_progress=False
        )
    assert list((tmp_path / ".there.staging").rglob("episode.json"))
    generate(config(output, workers=1, episodes_per_task=1), show_progress=False)
    assert content(output) == content(expected.root)
