"""A policy goes to another process, in the middle of a seeded episode."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from multiprocessing.connection import Connection

import numpy as np
import pytest

from rdvla.policy import RDVLAPolicy
from rdvla.types import Observation
from tests.support.tiny_models import make_observation, make_policy


def _act(policy: RDVLAPolicy, observation: Observation, answer: Connection) -> None:
    answer.send([np.asarray(policy.select_action(observation)) for _ in range(5)])
    answer.close()


def _in_a_spawned_process(policy: RDVLAPolicy, observation: Observation) -> list[np.ndarray]:
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_act, args=(policy, observation, sending))
    process.start()
    sending.close()
    try:
        return receiving.recv()
    finally:
        process.join()


@pytest.mark.parametrize("seed", [None, 3])
def test_a_spawned_process_goes_on_with_the_same_random_stream(seed: int | None) -> None:
    policy, observation = make_policy(), make_observation(2)
    policy.reset(seed=seed)
    for _ in range(2):  # of a chunk of 3: the query to come draws from the stream
        policy.select_action(observation)
    there = _in_a_spawned_process(policy, observation)
    here = [np.asarray(policy.select_action(observation)) for _ in range(5)]
    np.testing.assert_array_equal(there[0], here[0])  # what is left of the chunk
    if seed is not None:
        np.testing.assert_allclose(there, here, atol=1e-5)


def test_copies_draw_the_same_and_independently() -> None:
    policy, observation = make_policy(), make_observation(2)
    policy.reset(seed=1)
    copies = [copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))]
    expected = [np.asarray(policy.select_action(observation)) for _ in range(7)]
    for other in copies:
        actual = [np.asarray(other.select_action(observation)) for _ in range(7)]
        np.testing.assert_array_equal(actual, expected)
