"""A server with replicas on a real Ray cluster: three node processes on this machine; some are killed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdvla.errors import ConfigError, InputError
from rdvla.serving import Query
from rdvla.serving.loading import load_policy
from rdvla.serving.ray import RayOptions, RayReplica, RayReplicas, start_replicas
from rdvla.types import Observation
from rdvla_client import Patience, PolicyClient
from tests.support.ray_cluster import LocalCluster, local_cluster
from tests.support.served_double import LIMIT, DoublePolicy, answers_of, check_answers, make_query
from tests.support.serving import open_server
from tests.support.tiny_models import make_observation, make_policy

pytest.importorskip("ray")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning"),  # inside Ray Serve
]


@pytest.fixture(scope="module")
def cluster():
    """A head without room for replicas and two nodes with room for one each."""
    with local_cluster({"num_cpus": 1}, {"num_cpus": 1}) as found:
        yield found


def options(cluster: LocalCluster, *, replicas: int, start_seconds: float = LIMIT) -> RayOptions:
    return RayOptions(replicas=replicas, address=cluster.address, start_seconds=start_seconds)


def broken_load() -> DoublePolicy:
    raise InputError("there is no policy in /nowhere")


def test_a_policy_that_cannot_be_loaded_and_a_cluster_too_small_are_said_in_a_sentence(cluster):
    with pytest.raises(ConfigError, match="there is no policy in /nowhere"):
        start_replicas(broken_load, options(cluster, replicas=1))
    with pytest.raises(ConfigError, match=r"not all of 3 replicas started .* the cluster has 2 CPUs"):
        start_replicas(DoublePolicy, options(cluster, replicas=3, start_seconds=5.0))


def single_observation(seed: int) -> Observation:
    batch = make_observation(1, seed=seed).numpy()
    images = {camera: image[0] for camera, image in batch.images.items()}
    return Observation(images, batch.state[0], batch.instruction[0])


def test_a_real_policy_answers_on_ray_as_it_does_here(cluster, tmp_path):
    make_policy().save_pretrained(tmp_path)
    here = load_policy(tmp_path, name="tiny")
    single = single_observation(0)
    queries = [Query(single, here.initial_state(seed), stop="action_change:1e-3") for seed in range(4)]
    started = start_replicas(partial(load_policy, tmp_path, name="tiny"), options(cluster, replicas=1))
    try:
        assert started.front.facts == here.facts
        np.testing.assert_array_equal(started.front.initial_state(3), here.initial_state(3))
        for there, local in zip(
            answers_of(started.replicas()[0], queries), here.predict(queries), strict=True
        ):
            np.testing.assert_allclose(
                there.prediction.actions, local.prediction.actions, rtol=1e-4, atol=1e-4
            )
            assert (there.batch_size, there.max_depth) == (local.batch_size, local.max_depth)
    finally:
        started.close()


@dataclass
class Load:
    """Several clients, each of which asks its own questions one after another and checks the answers."""

    replicas: list[RayReplica]
    processes: list[int] = field(default_factory=list)  # that answered, in order of arrival

    async def client(self, number: int, *, until: asyncio.Event, at_least: int) -> None:
        asked = 0
        while not (until.is_set() and asked >= at_least):
            queries = [make_query(10**4 * number + asked)]
            answers = await self.replicas[number % len(self.replicas)].predict(queries)
            check_answers(queries, answers)
            self.processes.append(int(answers[0].prediction.depth))
            asked += 1

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0.02)


async def kill_a_node_under_load(started: RayReplicas, kill: Callable[[], None], *, clients: int) -> Load:
    """Kill a node once both replicas answer; go on until 200 answers came after that."""
    load, done = Load(started.replicas()), asyncio.Event()
    tasks = [asyncio.create_task(load.client(each, until=done, at_least=10)) for each in range(clients)]
    await load.wait_for(lambda: len(set(load.processes)) == 2 and len(load.processes) > 50)
    await asyncio.to_thread(kill)
    load.processes.clear()
    await load.wait_for(lambda: len(load.processes) > 200 or any(task.done() for task in tasks))
    done.set()
    await asyncio.gather(*tasks)
    return load


def test_every_request_is_answered_right_while_a_node_is_killed(cluster):
    started = start_replicas(partial(DoublePolicy, seconds=0.005), options(cluster, replicas=2))
    try:
        assert started.front.facts.name == "double"
        kill = partial(cluster.kill_node, cluster.nodes[0])
        load = asyncio.run(asyncio.wait_for(kill_a_node_under_load(started, kill, clients=6), LIMIT))
        assert len(load.processes) > 200
        assert len(set(load.processes[-100:])) == 1  # the node that lived answers alone
    finally:
        started.close()


def served(folder: str) -> Any:
    return load_policy(folder, name="tiny")


@dataclass
class Robots:
    """Clients in threads; each asks its own questions and compares the answers with the policy here."""

    address: str
    folder: Path
    clients: int = 4
    done: threading.Event = field(default_factory=threading.Event)
    counts: list[int] = field(init=False)  # answers that were right, by client

    def __post_init__(self) -> None:
        self.counts = [0] * self.clients

    def ask(self, number: int) -> None:
        here = load_policy(self.folder, name="tiny")
        with PolicyClient(self.address, patience=Patience(reply_s=LIMIT)) as client:
            while not self.done.is_set():
                seed = 1000 * number + self.counts[number]
                single = single_observation(seed)
                message = {f"images/{camera}": image for camera, image in single.images.items()}
                message |= {"state": single.state, "prompt": single.instruction}
                client.reset()
                reply = client.infer(message, seed=seed, stop="4")
                (expected,) = here.predict([Query(single, here.initial_state(seed), stop="4")])
                np.testing.assert_allclose(
                    reply["actions"], expected.prediction.actions, rtol=1e-4, atol=1e-4
                )
                assert reply["depth"] == 4
                self.counts[number] += 1

    def wait_for_answers(self, asking: Sequence[Future[None]], more: int) -> None:
        """Wait until every client has this many more answers, or one has failed."""
        wanted = [count + more for count in self.counts]
        deadline = time.monotonic() + LIMIT
        while any(count < least for count, least in zip(self.counts, wanted, strict=True)):
            assert not any(each.done() for each in asking), [
                each.exception() for each in asking if each.done()
            ]
            assert time.monotonic() < deadline, f"{self.counts} answers, {wanted} wanted"
            time.sleep(0.05)


def test_robots_of_a_server_do_not_notice_that_a_node_is_killed(cluster, tmp_path):
    node = cluster.add_node(num_cpus=1)  # in place of the one killed above
    cluster.wait_for_nodes()
    make_policy().save_pretrained(tmp_path)
    with open_server(tmp_path, ray=cluster.address, replicas=2, max_batch=4) as server:
        robots = Robots(server.address, tmp_path)
        with ThreadPoolExecutor(robots.clients) as pool:
            asking = [pool.submit(robots.ask, number) for number in range(robots.clients)]
            try:
                robots.wait_for_answers(asking, 10)
                cluster.kill_node(node)
                robots.wait_for_answers(asking, 20)
            finally:
                robots.done.set()
        for each in asking:
            each.result(timeout=LIMIT)


def applications() -> set[str]:
    from ray import serve

    return set(serve.status().applications)


FRONT = """
import sys, time
from pathlib import Path
from rdvla.serving.ray import RayOptions, start_replicas
from tests.support.ray_cluster import LocalCluster, local_cluster
from tests.support.served_double import LIMIT, DoublePolicy
started = start_replicas(DoublePolicy, RayOptions(1, address=sys.argv[1]))
Path(sys.argv[2]).touch()
time.sleep(LIMIT)
"""


def test_what_a_killed_server_left_on_the_cluster_the_next_one_removes(cluster, tmp_path):
    serves = tmp_path / "serves"
    front = subprocess.Popen(
        [sys.executable, "-c", FRONT, cluster.address, serves],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        deadline = time.monotonic() + LIMIT
        while not serves.exists():
            assert front.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        front.kill()
        front.wait(timeout=LIMIT)
    # Only one processor is left: there is room for two policies that take half of it, and nothing else.
    half = replace(options(cluster, replicas=1), cpus=0.5)
    first, second = start_replicas(DoublePolicy, half), start_replicas(DoublePolicy, half)
    try:
        assert len(applications()) == 2
        first.close()
        check_answers([make_query(0)], answers_of(second.replicas()[0], [make_query(0)]))
    finally:
        second.close()
