"""Queries of many askers form batches, and everyone gets the answer to their own, whatever happens."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdvla.errors import InputError, RDVLAError
from rdvla.serving.inference import Inference
from rdvla.serving.queries import BusyError, ReplicaDiedError
from tests.support.serving_doubles import (
    DEADLY,
    POISON,
    EchoReplica,
    GatedReplica,
    make_query,
    number_of,
)

TIMEOUT = 60.0  # seconds; nothing here waits for a clock


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, TIMEOUT))


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    replicas=st.integers(1, 3),
    max_batch=st.integers(1, 7),
    askers=st.integers(1, 12),
    death_rate=st.sampled_from([0.0, 0.1]),
)
def test_every_asker_gets_the_answer_to_its_own_query(
    seed: int, replicas: int, max_batch: int, askers: int, death_rate: float
) -> None:
    """Askers come, wait and go at random; replicas take random time, and die at random."""
    draw = random.Random(seed)

    async def ask_often(inference: Inference, asker: int) -> None:
        for turn in range(6):
            await turns(draw.randrange(6))
            number = float(100 * asker + turn)
            asked = asyncio.ensure_future(inference.ask(make_query(number)))
            if draw.random() < 0.2:
                await turns(draw.randrange(8))
                asked.cancel()
            try:
                assert number_of(await asked) == number
            except asyncio.CancelledError:
                pass
            except RDVLAError as error:
                assert death_rate and "twice" in str(error)

    async def all_ask() -> None:
        workers = [
            EchoReplica(lambda: draw.randrange(6), dies=lambda: draw.random() < death_rate)
            for _ in range(replicas)
        ]
        inference = Inference(workers, max_waiting=1000, max_batch=max_batch)
        await asyncio.gather(*(ask_often(inference, asker) for asker in range(askers)))
        await inference.close()
        assert inference.waiting == 0
        assert all(len(batch) <= max_batch for worker in workers for batch in worker.batches)
        assert all(worker.closed for worker in workers)

    run(all_ask())


def test_queries_that_wait_share_a_batch() -> None:
    async def scenario() -> list[list[float]]:
        replica = GatedReplica()
        inference = Inference([replica], max_batch=3)
        asked = [asyncio.ensure_future(inference.ask(make_query(number))) for number in range(6)]
        await turns()
        replica.gate.set()
        answers = await asyncio.gather(*asked)
        assert [number_of(answer) for answer in answers] == list(range(6))
        assert [answer.batch_size for answer in answers] == [1, 3, 3, 3, 2, 2]
        return replica.batches

    assert run(scenario()) == [[0], [1, 2, 3], [4, 5]]


def test_free_replicas_share_the_queries_that_wait() -> None:
    async def scenario() -> list[int]:
        gated = [GatedReplica(), GatedReplica()]
        inference = Inference(gated, max_batch=8)
        asked = [asyncio.ensure_future(inference.ask(make_query(number))) for number in range(8)]
        await turns()
        for replica in gated:
            replica.gate.set()
        await asyncio.gather(*asked)
        return [len(replica.batches) for replica in gated]

    assert min(run(scenario())) >= 1


def test_too_many_waiting_queries_are_refused_and_the_others_answered() -> None:
    async def scenario() -> None:
        replica = GatedReplica()
        inference = Inference([replica], max_waiting=2, max_batch=4)
        asked = [asyncio.ensure_future(inference.ask(make_query(number))) for number in range(3)]
        await turns()  # one is with the replica, two wait
        with pytest.raises(BusyError, match="2 queries wait"):
            await inference.ask(make_query(3))
        replica.gate.set()
        assert [number_of(each) for each in await asyncio.gather(*asked)] == [0, 1, 2]
        assert number_of(await inference.ask(make_query(4))) == 4

    run(scenario())


def test_a_query_whose_asker_has_gone_is_not_answered() -> None:
    async def scenario() -> list[list[float]]:
        replica = GatedReplica()
        inference = Inference([replica], max_batch=8)
        asked = [asyncio.ensure_future(inference.ask(make_query(number))) for number in range(4)]
        await turns()
        asked[2].cancel()
        await turns()
        assert inference.waiting == 2
        replica.gate.set()
        await asyncio.gather(*asked, return_exceptions=True)
        return replica.batches

    assert run(scenario()) == [[0], [1, 3]]


def test_only_the_query_at_fault_fails() -> None:
    async def scenario() -> list[Any]:
        replica = GatedReplica()
        inference = Inference([replica], max_batch=8)
        numbers = [0, 1, POISON, 2]
        asked = [asyncio.ensure_future(inference.ask(make_query(number))) for number in numbers]
        await turns()
        replica.gate.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    first, second, failed, last = run(scenario())
    assert [number_of(first), number_of(second), number_of(last)] == [0, 1, 2]
    assert isinstance(failed, InputError)


def test_queries_of_a_dead_replica_are_asked_again_once_each_alone() -> None:
    async def scenario() -> tuple[list[Any], EchoReplica]:
        replica = GatedReplica()
        inference = Inference([replica], max_batch=8)
        numbers = [0, 1, DEADLY, 2]
        asked = [asyncio.ensure_future(inference.ask(make_query(number))) for number in numbers]
        await turns()
        replica.gate.set()
        return await asyncio.gather(*asked, return_exceptions=True), replica

    (first, second, failed, last), replica = run(scenario())
    assert [number_of(first), number_of(second), number_of(last)] == [0, 1, 2]
    assert isinstance(failed, RDVLAError) and "twice" in str(failed)
    assert replica.batches == [[0], [1, DEADLY, 2], [1], [DEADLY], [2]]
    assert replica.restarts == 2


class Lost(EchoReplica):
    """Dies over its first batch, and cannot be started again."""

    def __init__(self, error: Exception) -> None:
        super().__init__(dies=lambda: True)
        self._error = error

    async def restart(self) -> None:
        raise self._error


@pytest.mark.parametrize("error", [RDVLAError("/srv/secret has gone"), OSError("no memory is left")])
def test_without_any_replica_left_every_asker_is_refused_and_the_log_says_why(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> list[Any]:
        replica = Lost(error)
        inference = Inference([replica], max_batch=1)
        assert inference.is_alive
        asked = [inference.ask(make_query(number)) for number in range(3)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        found += await asyncio.gather(inference.ask(make_query(4)), return_exceptions=True)
        assert replica.closed
        assert not inference.is_alive
        await inference.close()
        return found

    found = run(scenario())
    assert len(found) == 4
    for refused in found:
        assert isinstance(refused, BusyError) and "runs no more" in str(refused)
        assert "secret" not in str(refused) and "memory" not in str(refused)
    assert len({id(refused) for refused in found}) == 4
    logged = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [str(record.exc_info[1]) for record in logged if record.exc_info] == [str(error)]


def test_other_replicas_go_on_after_one_is_lost() -> None:
    async def scenario() -> None:
        inference = Inference([Lost(OSError("no memory is left")), EchoReplica()], max_batch=1)
        answers = await asyncio.gather(*(inference.ask(make_query(number)) for number in range(6)))
        assert [number_of(answer) for answer in answers] == list(range(6))
        assert inference.is_alive
        await inference.close()

    run(scenario())


def test_queries_are_not_blamed_for_a_replica_that_died_before_them() -> None:
    class DeadOnArrival(EchoReplica):
        async def predict(self, queries: Any) -> Any:
            if self.restarts < 3:
                raise ReplicaDiedError("killed", while_idle=True)
            return await super().predict(queries)

    async def scenario() -> None:
        assert number_of(await Inference([DeadOnArrival()]).ask(make_query(7))) == 7

    run(scenario())


def test_closing_gives_up_a_replica_that_hangs() -> None:
    async def scenario() -> list[Any]:
        hanging, other = GatedReplica(), EchoReplica()
        inference = Inference([hanging, other], grace_seconds=0.0, max_batch=1)
        asked = [asyncio.ensure_future(inference.ask(make_query(number))) for number in range(2)]
        await turns()
        await inference.close()
        assert hanging.closed and other.closed
        return await asyncio.gather(*asked, return_exceptions=True)

    refused, answer = run(scenario())
    assert isinstance(refused, BusyError) and "stopping" in str(refused)
    assert number_of(answer) == 1


def test_closing_waits_for_no_answer_that_nobody_wants() -> None:
    async def scenario() -> None:
        hanging = GatedReplica()
        inference = Inference([hanging], grace_seconds=1e6)
        asked = asyncio.ensure_future(inference.ask(make_query(1)))
        await turns()
        asked.cancel()
        await turns()
        await inference.close()
        assert hanging.closed

    run(scenario())


def test_closing_waits_for_queries_and_refuses_new_ones() -> None:
    async def scenario() -> None:
        replica = GatedReplica()
        inference = Inference([replica], max_batch=1)
        asked = [asyncio.ensure_future(inference.ask(make_query(number))) for number in range(3)]
        await turns()
        closing = asyncio.ensure_future(inference.close())
        await turns()
        with pytest.raises(BusyError, match="stopping"):
            await inference.ask(make_query(9))
        assert not replica.closed
        replica.gate.set()
        await closing
        assert [number_of(each) for each in await asyncio.gather(*asked)] == [0, 1, 2]
        assert replica.closed

    run(scenario())


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class TimedReplica(GatedReplica):
    """Takes 10 ms, and 10 ms per query, on a clock of its own."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    async def predict(self, queries: Any) -> Any:
        await self.gate.wait()
        self._clock.now += 0.01 + 0.01 * len(queries)
        return await super().predict(queries)


def batches_with(deadlines_ms: list[float | None]) -> list[list[float]]:
    """The batches that queries form which came while the replica was busy, by their number in the list."""

    async def scenario() -> list[list[float]]:
        clock = Clock()
        replica = TimedReplica(clock)
        inference = Inference([replica], max_batch=8, clock=clock)
        replica.gate.set()
        await inference.warm_up(make_query(0))
        replica.batches.clear()
        replica.gate.clear()
        busy = asyncio.ensure_future(inference.ask(make_query(99)))
        await turns()
        asked = [
            asyncio.ensure_future(
                inference.ask(make_query(number, deadline=None if ms is None else clock.now + ms / 1000))
            )
            for number, ms in enumerate(deadlines_ms)
        ]
        await turns()
        replica.gate.set()
        await asyncio.gather(busy, *asked)
        return replica.batches[1:]

    return run(scenario())


def test_the_earliest_deadline_comes_first() -> None:
    # Busy for 20 ms more. A query without a deadline is due after a second.
    assert batches_with([400, 300, None, 5000, 200]) == [[4, 1, 0, 2, 3]]


def test_a_batch_is_as_large_as_keeps_most_deadlines_per_second() -> None:
    # After 20 ms the first batch begins; three queries take 40 ms, four 50 ms.
    assert batches_with([68, None, None, None, None]) == [[0, 1, 2], [3, 4]]
    # Here many wait: one deadline is given up for seven others.
    assert batches_with([48, *[190] * 7]) == [[0, 1, 2, 3, 4, 5, 6, 7]]
    assert batches_with([500] * 5) == [[0, 1, 2, 3, 4]]


def test_a_deadline_that_cannot_be_kept_holds_up_no_others() -> None:
    assert batches_with([5, 500, 500, 500]) == [[0, 1, 2, 3]]


def test_replies_that_take_long_leave_inference_less_time() -> None:
    class Noting(EchoReplica):
        deadlines: list[float]

        async def predict(self, queries: Any) -> Any:
            self.deadlines = [query.deadline for query in queries]
            return await super().predict(queries)

    async def scenario() -> list[float]:
        clock, replica, given = Clock(), Noting(), []
        inference = Inference([replica], clock=clock)
        for seconds in (0.0, 0.02, 60.0):  # the last client did not read its reply
            inference.replied(seconds)
            await inference.ask(make_query(1, deadline=clock.now + 1))
            given.append(clock.now + 1 - replica.deadlines[0])
        return given

    short, long, longest = run(scenario())
    assert 0 < short < long < longest < 0.2
