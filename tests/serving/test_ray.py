"""Batches travel to replicas on Ray and back, whatever happens to a replica; no cluster is needed here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest

from rdvla.errors import ConfigError, InputError
from rdvla.serving import Answer, Query, ServeConfig
from rdvla.serving.queries import ReplicaDiedError
from rdvla.serving.ray import PolicyHolder, RayOptions, RayReplica, start_replicas
from tests.support.served_double import FACTS, REFUSED, DoublePolicy, answers_of, check_answers, make_query

ray = pytest.importorskip("ray")

ActorDiedError = ray.exceptions.ActorDiedError
ActorUnavailableError = ray.exceptions.ActorUnavailableError
WorkerCrashedError = ray.exceptions.WorkerCrashedError

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")  # inside Ray Serve


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


def death(kind: type[Exception]) -> Exception:
    if kind is ActorUnavailableError:
        return kind("the node is gone", b"1" * 16)
    return kind()


@pytest.mark.parametrize("kind", [ActorDiedError, ActorUnavailableError, WorkerCrashedError])
def test_a_batch_whose_replica_dies_is_asked_again(kind: type[Exception]):
    queries = [make_query(seed) for seed in range(3)]
    check_answers(queries, answers_of(replica(death(kind), death(kind)), queries))


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
    check_answers(queries, found)

    holder = PolicyHolder(DoublePolicy)
    told = asyncio.run(holder.predict(queries[2:] * 2, [-5.0, 1000.0], FACTS.fingerprint))
    assert [answer.ended_by for answer in told] == ["deadline", "converged"]


def test_a_replica_computes_one_batch_at_a_time():
    policy = CountingPolicy()
    holder = PolicyHolder(lambda: policy)

    async def ask_together() -> None:
        await asyncio.gather(*(holder.predict([make_query(seed)], [None], "0123") for seed in range(3)))

    asyncio.run(ask_together())
    assert policy.most == 1


@dataclass(frozen=True)
class CountingPolicy(DoublePolicy):
    """Counts how many batches it computes at the same time."""

    present: list[int] = field(default_factory=list)
    seen: list[int] = field(default_factory=list)

    @property
    def most(self) -> int:
        return max(self.seen)

    def predict(self, queries: list[Query]) -> list[Answer]:
        self.present.append(1)
        self.seen.append(len(self.present))
        time.sleep(0.02)
        self.present.pop()
        return super().predict(queries)


def test_a_machine_with_other_weights_in_the_same_folder_is_found_out():
    handle = FakeHandle(PolicyHolder(partial(DoublePolicy, replace(FACTS, fingerprint="4567"))))
    with pytest.raises(ConfigError, match="has other weights"):
        answers_of(RayReplica(handle, FACTS.fingerprint, patience=1.0, release=nothing), [make_query(0)])


def test_what_replicas_take_on_a_cluster_needs_a_cluster():
    assert ServeConfig(policy="metaworld", ray="auto", ray_gpus=0.5).ray_gpus == 0.5
    with pytest.raises(ConfigError, match="name it with --ray"):
        ServeConfig(policy="metaworld", ray_gpus=0.5)


@pytest.mark.parametrize(
    ("address", "reason"), [("127.0.0.1:1", "refused"), ("cluster", "HOST:PORT"), (":6379", "HOST:PORT")]
)
def test_an_address_without_a_cluster_is_said_in_a_sentence(address: str, reason: str):
    with pytest.raises(ConfigError, match=f"no Ray cluster at '{address}' .*{reason}.* `ray start --head`"):
        start_replicas(DoublePolicy, RayOptions(1, address=address))
