"""Times per query, with a clock that only the policy moves."""

from collections import Counter

import numpy as np
import pytest
import torch

from rdvla.control import as_stop
from rdvla.evaluation import timing
from rdvla.evaluation.timing import Sample, time_queries
from rdvla.rollout import Setting
from rdvla.types import Observation, Prediction


def observation(number):
    image = np.full((4, 4, 3), number, dtype=np.uint8)
    return Observation({"front": image}, np.zeros(2, dtype=np.float32), "push")


def sampled(stops, queries=4):
    sample = Sample(queries)
    for stop in stops:
        for number in range(queries):
            sample(Setting.parse(stop, "8"), observation(number), torch.full((1, 2, 3), float(number)))
    return sample


class Clock:
    """A policy whose queries take a second per iteration, slowed down as time goes by, and its clock."""

    def __init__(self, drift=0.0):
        self.now, self.drift, self.calls = 0.0, drift, []

    def predict(self, observation, *, stop, initial_state):
        assert observation.is_batch and torch.is_tensor(observation.state)
        depth = as_stop(stop).max_depth if as_stop(stop).is_fixed else 3 + int(initial_state[0, 0, 0])
        self.now += depth * (1 + self.drift * len(self.calls))
        self.calls.append((stop, int(initial_state[0, 0, 0])))
        return Prediction(
            actions=torch.zeros(1, 8, 4),
            depth=torch.tensor([depth]),
            converged=torch.tensor([True]),
            state=initial_state,
        )


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    return clock


STOPS = ("fixed:1", "fixed:8", "action_change:0.001")


def test_a_time_is_the_mean_over_the_rules_own_queries(clock):
    found = time_queries(clock, sampled(STOPS), stops=STOPS, seconds=1000)
    adaptive = 1000 * np.mean([3, 4, 5, 6])  # its depth depends on the query
    assert found["query_ms"] == {"fixed:1": 1000, "fixed:8": 8000, "action_change:0.001": adaptive}
    assert found["queries"] == 4


def test_every_round_runs_every_query_of_every_rule_in_another_order(clock):
    found = time_queries(clock, sampled(STOPS), stops=STOPS, seconds=1000)
    size = len(STOPS) * 4
    rounds = [clock.calls[start : start + size] for start in range(0, len(clock.calls), size)]
    assert len(rounds) == found["rounds"] + 1 > 3  # the first warms up
    assert all(Counter(one) == Counter(rounds[0]) and max(Counter(one).values()) == 1 for one in rounds)
    assert len({tuple(one) for one in rounds}) == len(rounds)


def test_a_machine_that_slows_down_slows_all_rules_alike(clock):
    clock.drift = 0.01
    found = time_queries(clock, sampled(STOPS), stops=STOPS, seconds=1000)["query_ms"]
    assert found["fixed:8"] / found["fixed:1"] == pytest.approx(8, rel=0.1)


def test_a_slow_policy_is_still_measured_after_its_warm_up(clock):
    found = time_queries(clock, sampled(("fixed:8",)), stops=("fixed:8",), seconds=0.5)
    assert (found["rounds"], found["query_ms"]) == (3, {"fixed:8": 8000})


def test_a_sample_keeps_a_few_of_many_queries_with_equal_chance():
    counts = Counter()
    sample = Sample(3)
    for seed in range(400):
        sample = Sample(3)
        sample._random.seed(seed)
        for number in range(12):
            sample(Setting("fixed:8", "fixed:8"), observation(number), torch.zeros(1, 2, 3))
        (kept,) = sample.queries.values()
        assert len(kept) == 3
        counts.update(int(query.observation.images["front"][0, 0, 0]) for query in kept)
    assert all(abs(counts[number] - 100) < 40 for number in range(12))  # 100 expected, 4.6 deviations


def test_a_rule_without_queries_of_its_own_borrows_them_unless_it_starts_warm(clock):
    stops = ("fixed:1", "fixed:4", "action_change:0.001@final")
    found = time_queries(clock, sampled(("1",)), stops=stops, seconds=100)
    assert found["query_ms"] == {"fixed:1": 1000, "fixed:4": 4000}
    assert time_queries(clock, Sample(), stops=stops, seconds=100) is None
