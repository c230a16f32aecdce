"""An exported policy cannot interrupt its graph, so it learns what depth is in time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rdvla.runtime import OnnxPolicy
from tests.support.tiny_models import make_observation

RULE = "action_change:1e-9:2:20"  # never satisfied


class Clock:
    """Every prediction takes 100 ms, and 10 ms per iteration of the last known depth."""

    def __init__(self) -> None:
        self.now = 0.0
        self.depth = 0
        self._calls = 0

    def __call__(self) -> float:
        self._calls += 1
        if self._calls % 2 == 0:  # at the end of a prediction
            self.now += 0.1 + 0.01 * self.depth
        return self.now


def calibrated(folder: Path, *, batch: int) -> tuple[OnnxPolicy, Clock]:
    clock = Clock()
    policy = OnnxPolicy.load(folder, threads=1, clock=clock)
    for depth in (2, 8, 4):
        clock.depth = depth
        policy.predict(make_observation(batch), stop=depth)
    return policy, clock


def test_time_left_becomes_a_depth(exported: Path) -> None:
    policy, clock = calibrated(exported, batch=1)
    observation = make_observation(1)
    start = policy.initial_state(1, np.random.default_rng(0))
    found = policy.predict(observation, stop=RULE, initial_state=start, deadline=clock.now + 0.1551)
    assert found.depth.tolist() == [5] and not found.converged.any()
    same = policy.predict(observation, stop=RULE, initial_state=start, max_depth=5)
    np.testing.assert_array_equal(found.actions, same.actions)
    np.testing.assert_array_equal(found.state, same.state)


def test_every_sample_has_a_deadline_of_its_own(exported: Path) -> None:
    policy, clock = calibrated(exported, batch=3)
    deadlines = [clock.now + 0.1751, None, clock.now - 1]
    found = policy.predict(make_observation(3), stop=RULE, max_depth=[20, 9, 20], deadline=deadlines)
    assert found.depth.tolist() == [7, 9, 1]


def test_without_measurements_no_deadline_is_kept(exported: Path) -> None:
    policy = OnnxPolicy.load(exported, threads=1)
    found = policy.predict(make_observation(2), stop=RULE, deadline=0.0)
    assert found.depth.tolist() == [20, 20]
