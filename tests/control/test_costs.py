"""The cost model finds what batches cost, from few and noisy measurements."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdvla.control import BatchCosts
from rdvla.control.stop import LARGEST_DEPTH


def cost(depths: list[int], *, once: float, sample: float, iteration: float, both: float) -> float:
    return once + sample * len(depths) + iteration * max(depths) + both * sum(depths)


positive = st.floats(1e-4, 1.0)


@settings(max_examples=50, deadline=None)
@given(once=positive, sample=positive, iteration=positive, both=positive, seed=st.integers(0, 1000))
def test_a_batch_that_was_never_measured_is_predicted(
    once: float, sample: float, iteration: float, both: float, seed: int
) -> None:
    draw, costs = random.Random(seed), BatchCosts()
    for size in (1, 2, 3, 8):
        for _ in range(6):
            depths = [draw.randint(1, 12) for _ in range(size)]
            costs.add(depths, cost(depths, once=once, sample=sample, iteration=iteration, both=both))
    for size, depth in ((1, 20), (5, 6), (8, 3)):
        expected = cost([depth] * size, once=once, sample=sample, iteration=iteration, both=both)
        assert costs.seconds(size, depth) == pytest.approx(expected, rel=0.1)


@settings(max_examples=50, deadline=None)
@given(seconds=st.lists(st.floats(1e-5, 10), min_size=1, max_size=40), seed=st.integers(0, 1000))
def test_no_measurements_make_more_work_cheaper(seconds: list[float], seed: int) -> None:
    draw, costs = random.Random(seed), BatchCosts()
    for each in seconds:
        costs.add([draw.randint(1, 12) for _ in range(draw.randint(1, 9))], each)
    for size in (1, 4, 9):
        for depth in (1, 5):
            assert 0 <= costs.seconds(size, depth) <= costs.seconds(size + 1, depth)
            assert costs.seconds(size, depth) <= costs.seconds(size, depth + 1)


def test_most_batches_take_no_longer_than_predicted() -> None:
    draw, costs = random.Random(0), BatchCosts()
    taken = [0.1 * draw.uniform(0.8, 1.5) for _ in range(16)]
    for seconds in taken:
        costs.add([4, 4], seconds)
    assert sum(seconds <= costs.seconds(2, 4) for seconds in taken) >= 15


def test_a_machine_that_slows_down_is_noticed() -> None:
    costs = BatchCosts()
    for factor in (1.0, 3.0):
        for depth in (2, 8) * 16:
            costs.add([depth], factor * (0.1 + 0.01 * depth))
    assert costs.seconds(1, 5) == pytest.approx(0.45, rel=0.05)


def test_the_depth_that_the_time_allows() -> None:
    costs = BatchCosts()
    assert not costs.known and costs.depth_within(0.0, samples=1) == LARGEST_DEPTH
    for depth in (2, 8, 4) * 3:
        costs.add([depth], 0.1 + 0.01 * depth)
    assert costs.known
    assert costs.depth_within(0.1551, samples=1) == 5
    assert costs.depth_within(0.01, samples=1) == costs.depth_within(-1.0, samples=1) == 1
    assert costs.depth_within(float("inf"), samples=1) == LARGEST_DEPTH


def test_measurements_without_time_or_samples_are_left_out() -> None:
    costs = BatchCosts()
    costs.add([], 1.0)
    costs.add([3], 0.0)
    assert not costs.known and costs.seconds(3, 3) == 0
