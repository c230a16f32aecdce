"""Batches travel to replicas on Ray and back, whatever happens to a replica."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from rdvla.errors import ConfigError, InputError
from rdvla.serving.inference import ReplicaDiedError
from rdvla.serving.loading import load_policy
from rdvla.serving.queries import Answer, Query
from rdvla.types import Observation
from rdvla_client import Patience, PolicyClient
from tests.support.served_double import FACTS, REFUSED, DoublePolicy, make_query, right_actions
from tests.support.serving import open_server
from tests.support.tiny_models import make_observation, make_policy

ray = pytest.importorskip("ray")

from rdvla.serving.ray import (  # noqa: E402
    PolicyHolder,
    RayOptions,
    RayReplica,
    RayReplicas,
    start_replicas,
)

ActorDiedError = ray.exceptions.ActorDiedError
ActorUnavailableError = ray.exceptions.ActorUnavailableError
WorkerCrashedError = ray.exceptions.WorkerCrashedError

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")  # inside Ray Serve
LIMIT = 120.0  # seconds after which a test gives up


@dataclass
class FakeHandle:
    """A deployment's handle in this process; `deaths` are raised first, one per request."""

    holder: PolicyHolder
    deaths: list[Exception] = field(default_factory=list)
    silent: bool = False

    @property
    def predict(self) -> FakeHandle:
        return self

    async def remote(self, *arguments: Any) -> list[Answer]:
        if self.deaths:
            raise self.deaths.pop(0)
        while self.silent:
            await asyncio.sleep(1)
        try:
            return await self.holder.predict(*arguments)
        except Exception as error:
            raise ray.exceptions.RayTaskError("predict", "traceback", error).as_instanceof_cause() from error


async def nothing() -> None:
    return None


def replica(*deaths: Exception, patience: float = 5.0, release: Callable[[], Any] = nothing) -> RayReplica:
    handle = FakeHandle(PolicyHolder(DoublePolicy), list(deaths))
    return RayReplica(handle, FACTS.fingerprint, patience=patience, release=release)


def answers_of(used: RayReplica, queries: Sequence[Query]) -> list[Answer]:
    return asyncio.run(asyncio.wait_for(used.predict(queries), LIMIT))


def check(queries: Sequence[Query], answers: Sequence[Answer]) -> None:
    assert len(answers) == len(queries)
    for query, answer in zip(queries, answers, strict=True):
        np.testing.assert_array_equal(answer.prediction.actions, right_actions(query))


def death(kind: type[Exception]) -> Exception:
    if kind is ActorUnavailableError:
        return kind("the node is gone", b"1" * 16)
    return kind()


@pytest.mark.parametrize("kind", [ActorDiedError, ActorUnavailableError, WorkerCrashedError])
def test_a_batch_whose_replica_dies_is_asked_again(kind: type[Exception]):
    queries = [make_query(seed) for seed in range(3)]
    check(queries, answers_of(replica(death(kind), death(kind)), queries))


def test_an_error_of_the_policy_arrives_as_it_was_and_is_not_asked_again():
    with pytest.raises(InputError, match="the policy refuses this instruction") as caught:
        answers_of(replica(), [make_query(0), make_query(1, instruction=REFUSED)])
    assert not isinstance(caught.value, ray.exceptions.RayError)


def test_the_server_learns_it_when_no_replica_can_be_reached():
    dying = replica(*(death(ActorDiedError) for _ in range(100)), patience=0.3)
    with pytest.raises(ReplicaDiedError, match="no replica on Ray"):
        answers_of(dying, [make_query(0)])
    silent = FakeHandle(PolicyHolder(DoublePolicy), silent=True)  # as Ray's while it starts replicas
    with pytest.raises(ReplicaDiedError, match="no replica on Ray"):
        answers_of(RayReplica(silent, FACTS.fingerprint, patience=0.3, release=nothing), [make_query(0)])


def test_a_deadline_means_the_same_on_a_machine_whose_clock_started_earlier():
    """The clocks of two machines have nothing in common, so seconds travel; here they run side by side."""
    now = time.monotonic()
    queries = [make_query(0, deadline=now - 1), make_query(1, deadline=now + 1000), make_query(2)]
    found = answers_of(replica(), queries)
    assert [answer.ended_by for answer in found] == ["deadline", "converged", "converged"]
    check(queries, found)

    holder = PolicyHolder(DoublePolicy)
    told = asyncio.run(holder.predict(queries[2:] * 2, [-5.0, 1000.0], FACTS.fingerprint))
    assert [answer.ended_by for answer in told] == ["deadline", "converged"]


def test_a_machine_with_other_weights_in_the_same_folder_is_found_out():
    handle = FakeHandle(PolicyHolder(partial(DoublePolicy, replace(FACTS, fingerprint="4567"))))
    with pytest.raises(ConfigError, match="has other weights"):
        answers_of(RayReplica(handle, FACTS.fingerprint, patience=1.0, release=nothing), [make_query(0)])


# --- a cluster of three node processes on this machine ---


@pytest.fixture(scope="module")
def cluster():
    """A head without room for replicas and two nodes with room for one each."""
    from ray.cluster_utils import Cluster

    store = 80 * 2**20
    found = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": store, "include_dashboard": False},
    )
    nodes = [found.add_node(num_cpus=1, object_store_memory=store) for _ in range(2)]
    found.wait_for_nodes(timeout=LIMIT)
    yield found, nodes
    ray.shutdown()
    found.shutdown()


def options(cluster: Any, *, replicas: int, start_seconds: float = LIMIT) -> RayOptions:
    return RayOptions(replicas=replicas, address=cluster.address, start_seconds=start_seconds)


def broken_load() -> DoublePolicy:
    raise InputError("there is no policy in /nowhere")


@pytest.mark.slow
def test_a_policy_that_cannot_be_loaded_and_a_cluster_too_small_are_said_in_a_sentence(cluster):
    found, _ = cluster
    with pytest.raises(ConfigError, match="there is no policy in /nowhere"):
        start_replicas(broken_load, options(found, replicas=1))
    with pytest.raises(ConfigError, match=r"not all of 3 replicas started .* the cluster has 2 CPUs"):
        start_replicas(DoublePolicy, options(found, replicas=3, start_seconds=5.0))


def single_observation(seed: int) -> Observation:
    batch = make_observation(1, seed=seed).numpy()
    images = {camera: image[0] for camera, image in batch.images.items()}
    return Observation(images, batch.state[0], batch.instruction[0])


@pytest.mark.slow
def test_a_real_policy_answers_on_ray_as_it_does_here(cluster, tmp_path):
    make_policy().save_pretrained(tmp_path)
    here = load_policy(tmp_path, name="tiny")
    single = single_observation(0)
    queries = [Query(single, here.initial_state(seed), stop="action_change:1e-3") for seed in range(4)]
    started = start_replicas(partial(load_policy, tmp_path, name="tiny"), options(cluster[0], replicas=1))
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
            check(queries, answers)
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


@pytest.mark.slow
def test_every_request_is_answered_right_while_a_node_is_killed(cluster):
    found, nodes = cluster
    started = start_replicas(partial(DoublePolicy, seconds=0.005), options(found, replicas=2))
    try:
        assert started.front.facts.name == "double"
        kill = partial(found.remove_node, nodes[0], allow_graceful=False)
        load = asyncio.run(asyncio.wait_for(kill_a_node_under_load(started, kill, clients=6), LIMIT))
        assert len(load.processes) > 200
        assert len(set(load.processes[-100:])) == 1  # the node that lived answers alone
    finally:
        started.close()


def served(folder: str) -> Any:
    return load_policy(folder, name="tiny")


def ask_and_check(address: str, folder: str, number: int, until: threading.Event) -> int:
    """Ask own questions until told to stop, compare each answer with the policy in this process; count."""
    here, asked = served(folder), 0
    with PolicyClient(address, patience=Patience(reply_s=LIMIT)) as client:
        while not until.is_set():
            seed = 1000 * number + asked
            single = single_observation(seed)
            message = {f"images/{camera}": image for camera, image in single.images.items()}
            message |= {"state": single.state, "prompt": single.instruction}
            client.reset()
            reply = client.infer(message, seed=seed, stop="4")
            (expected,) = here.predict([Query(single, here.initial_state(seed), stop="4")])
            np.testing.assert_allclose(
                reply["actions"],
                expected.prediction.actions,
                rtol=1e-4,
                atol=1e-4,
                err_msg=f"client {number}",
            )
            assert reply["depth"] == 4
            asked += 1
    return asked


@pytest.mark.slow
def test_robots_of_a_server_do_not_notice_that_a_node_is_killed(cluster, tmp_path):
    found, _ = cluster
    node = found.add_node(num_cpus=1, object_store_memory=80 * 2**20)  # in place of the one killed above
    found.wait_for_nodes(timeout=LIMIT)
    make_policy().save_pretrained(tmp_path)
    done = threading.Event()
    with (
        open_server(tmp_path, ray=found.address, replicas=2, max_batch=4) as server,
        ThreadPoolExecutor(4) as pool,
    ):
        clients = [pool.submit(ask_and_check, server.address, str(tmp_path), each, done) for each in range(4)]
        time.sleep(3)  # some answers come before
        found.remove_node(node, allow_graceful=False)
        wait(clients, timeout=10)  # and some after; those that fail end early
        done.set()
        counts = [client.result(timeout=LIMIT) for client in clients]
    assert min(counts) > 5


def applications() -> set[str]:
    from ray import serve

    return set(serve.status().applications)


FRONT = """
import sys
from rdvla.serving.ray import RayOptions, start_replicas
from tests.support.served_double import DoublePolicy
started = start_replicas(DoublePolicy, RayOptions(1, address=sys.argv[1]))
print("started", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_what_a_killed_server_left_on_the_cluster_the_next_one_removes(cluster):
    found, _ = cluster
    front = subprocess.Popen(
        [sys.executable, "-c", FRONT, found.address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert front.stdout is not None
        assert front.stdout.readline().strip() == "started"
    finally:
        front.kill()
        front.communicate()
    started = start_replicas(DoublePolicy, options(found, replicas=1))  # there is room for one replica only
    try:
        assert len(applications()) == 1
        check([make_query(0)], answers_of(started.replicas()[0], [make_query(0)]))
    finally:
        started.close()
