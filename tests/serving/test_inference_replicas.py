"""Replicas in threads and processes answer alike; a process that dies is replaced."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from rdvla.errors import InputError, RDVLAError
from rdvla.serving.inference import Inference
from rdvla.serving.loading import load_policy
from rdvla.serving.queries import BusyError, Query, ReplicaDiedError
from rdvla.serving.replicas import ThreadReplica, open_replicas
from tests.serving.test_inference import run, turns
from tests.serving.test_inference_loading import observe
from tests.support.served_echo import BUG, FACTS, EchoPolicy, LoadOnce, load_echo, load_nothing
from tests.support.serving_doubles import DEADLY, POISON, make_query, number_of
from tests.support.tiny_models import make_policy


def ask_all(inference: Inference, numbers: list[float]) -> list[object]:
    async def asked() -> list[object]:
        return await asyncio.gather(
            *(inference.ask(make_query(number)) for number in numbers), return_exceptions=True
        )

    return asked()


@pytest.mark.parametrize("count", [1, 2])
def test_every_query_is_answered_and_only_those_at_fault_fail(count: int) -> None:
    front, replicas = open_replicas(load_echo, count=count)
    assert front.facts == FACTS and front.initial_state(7) == 7

    async def scenario() -> list[object]:
        inference = Inference(replicas, max_batch=4)
        try:
            return await ask_all(inference, [*range(12), POISON, BUG])
        finally:
            await inference.close()

    *answers, refused, failed = run(scenario())
    assert [number_of(answer) for answer in answers] == list(range(12))
    assert isinstance(refused, InputError) and "cannot be answered" in str(refused)
    assert "a bug" in str(failed) and not isinstance(failed, RDVLAError)


def test_a_process_that_dies_is_replaced_and_its_queries_are_asked_again() -> None:
    _, replicas = open_replicas(load_echo, count=2)

    async def scenario() -> list[object]:
        inference = Inference(replicas, max_batch=8)
        try:
            first = await ask_all(inference, [*range(10), DEADLY])
            return [*first, *await ask_all(inference, [*range(10, 20)])]
        finally:
            await inference.close()

    found = run(scenario())
    died = found.pop(10)
    assert [number_of(answer) for answer in found] == list(range(20))
    assert isinstance(died, RDVLAError) and "exit code" in str(died) and "twice" in str(died)


def test_a_policy_that_cannot_be_loaded_is_said_at_once() -> None:
    with pytest.raises(RDVLAError, match="no such policy"):
        open_replicas(load_nothing, count=2)


def test_replicas_that_cannot_be_replaced_end_the_service(tmp_path: Path) -> None:
    _, replicas = open_replicas(LoadOnce(tmp_path / "loads", 2), count=2)

    async def scenario() -> list[object]:
        inference = Inference(replicas, max_batch=1)
        try:
            return await ask_all(inference, [DEADLY, DEADLY, DEADLY])
        finally:
            await inference.close()

    assert all(isinstance(error, RDVLAError) for error in run(scenario()))


def test_a_process_that_died_while_idle_is_told_from_one_that_died_over_a_query() -> None:
    others = set(multiprocessing.active_children())
    _, replicas = open_replicas(load_echo, count=2)
    for child in set(multiprocessing.active_children()) - others:
        child.kill()
        child.join(60)

    async def scenario() -> list[bool]:
        found, replica = [], replicas[0]
        for _ in range(2):
            with pytest.raises(ReplicaDiedError, match="exit code -9") as died:
                await replica.predict([make_query(DEADLY)])
            found.append(died.value.while_idle)
            await replica.restart()
        assert number_of((await replica.predict([make_query(7)]))[0]) == 7
        return found

    try:
        assert run(scenario()) == [True, False]
    finally:
        for replica in replicas:
            replica.stop()


def test_a_process_that_hangs_is_killed() -> None:
    others = set(multiprocessing.active_children())
    _, replicas = open_replicas(load_echo, count=2)
    children = list(set(multiprocessing.active_children()) - others)
    for child in children:
        os.kill(child.pid or 0, signal.SIGSTOP)
        os.waitpid(child.pid or 0, os.WUNTRACED)  # stopped by now, so it will not hear SIGTERM

    async def scenario() -> list[object]:
        inference = Inference(replicas, grace_seconds=0.0)
        asked = asyncio.ensure_future(ask_all(inference, [1, 2]))
        await turns()
        await inference.close()
        return await asked

    try:
        assert all(isinstance(error, BusyError) for error in run(scenario()))
        assert [child.exitcode for child in children] == [-signal.SIGKILL] * 2
    finally:
        for child in children:
            child.kill()


@pytest.mark.slow
def test_processes_answer_as_the_policy_does(tmp_path: Path) -> None:
    policy = make_policy()
    policy.save_pretrained(tmp_path / "policy")
    load = partial(load_policy, tmp_path / "policy", name="default", threads=1)
    front, replicas = open_replicas(load, count=2)
    np.testing.assert_array_equal(front.initial_state(3), load().initial_state(3))
    queries = [Query(observe(seed), front.initial_state(seed)) for seed in range(7)]

    async def scenario() -> list[object]:
        inference = Inference(replicas, max_batch=3)
        try:
            await inference.warm_up(queries[0])
            return await asyncio.gather(*map(inference.ask, queries))
        finally:
            await inference.close()

    for query, answer in zip(queries, run(scenario()), strict=True):
        alone = policy.predict(query.observation, initial_state=query.initial_state)
        np.testing.assert_allclose(answer.prediction.actions, alone.actions.numpy(), atol=1e-5)


def test_a_thread_is_closed_once_it_has_answered() -> None:
    replica = ThreadReplica(EchoPolicy())

    async def scenario() -> float:
        asked = asyncio.ensure_future(replica.predict([make_query(5)]))
        await asyncio.sleep(0)
        await replica.close()
        return number_of((await asked)[0])

    assert run(scenario()) == 5
