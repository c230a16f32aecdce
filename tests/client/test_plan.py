"""Which action comes next: alignment in time, blending, limits, horizons, and when to ask."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdvla_client import ActionLimits, Blend, UnsupportedError, WireError
from rdvla_client.execution import Execution
from rdvla_client.plan import Plan
from rdvla_client.timing import Timing

OPTIONS = frozenset({"execution", "executed"})


def counting(position: int, size: int = 8) -> np.ndarray:
    """A chunk whose actions are the positions they are meant for."""
    return np.arange(position, position + size, dtype=np.float32)[:, None]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 8), st.integers(0, 3)), max_size=30), st.booleans()
)
def test_every_action_runs_at_the_step_it_was_meant_for_however_late_its_chunk_is(events, blended):
    """Chunks of a policy that is sure of itself, delayed by any number of executed and held steps."""
    plan = Plan(Blend(3) if blended else None)
    executed = []
    for delay, horizon, held in events:
        observed = plan.position
        for _ in range(delay):
            action = plan.next()
            executed += [] if action is None else [action.item()]
        plan.accept(counting(observed), observed=observed, horizon=horizon)
        for _ in range(held):
            action = plan.next()
            executed += [] if action is None else [action.item()]
    np.testing.assert_allclose(executed, np.arange(len(executed)), atol=1e-4)
    assert plan.position == len(executed)


def test_no_action_beyond_the_horizon_is_executed():
    plan = Plan(None)
    assert plan.accept(counting(0), observed=0, horizon=3)
    assert [plan.remaining for _ in range(4) if plan.next() is not None or True] == [2, 1, 0, 0]
    assert plan.position == 3
    assert not plan.accept(counting(0), observed=0, horizon=3)  # its actions lie in the past
    assert plan.accept(counting(3), observed=3, horizon=1)
    assert plan.next() == 3


def test_an_overrun_goes_on_for_so_many_actions_while_there_is_no_new_chunk():
    plan = Plan(None, overrun=2)
    plan.accept(counting(0), observed=0, horizon=3)
    assert [plan.next() for _ in range(6)] == [0, 1, 2, 3, 4, None]
    plan.accept(counting(5, size=4), observed=5, horizon=3)
    assert [plan.next() for _ in range(5)] == [5, 6, 7, 8, None]  # a chunk has no more actions than that


def test_a_seam_without_blending_jumps_and_with_blending_does_not():
    def executed(blend):
        plan = Plan(blend)
        plan.accept(np.zeros((10, 2), np.float32), observed=0, horizon=10)
        taken = [plan.next() for _ in range(3)]
        plan.accept(np.ones((10, 2), np.float32), observed=1, horizon=10)
        return np.array(taken + [plan.next() for _ in range(7)])

    def largest_change(actions):
        return np.abs(np.diff(actions, axis=0)).max(axis=0)

    np.testing.assert_allclose(largest_change(executed(None)), [1, 1])
    np.testing.assert_allclose(largest_change(executed(Blend(4, curve="linear"))), [0.2, 0.2], atol=1e-6)
    blended = executed(Blend(4, discrete=(1,)))
    assert largest_change(blended)[0] < 0.4
    assert set(blended[:, 1]) == {0.0, 1.0}
    np.testing.assert_array_equal(blended[-3:], 1)  # after four steps the new chunk alone decides


@given(st.integers(1, 20), st.sampled_from(["linear", "smooth"]))
def test_the_new_chunks_share_grows_between_nothing_and_all(count, curve):
    weights = Blend(count, curve=curve).weights(count)
    assert ((weights > 0) & (weights < 1)).all()
    assert (np.diff(weights) > 0).all()
    np.testing.assert_allclose(weights + weights[::-1], 1, atol=1e-6)


def test_a_blend_is_no_longer_than_what_is_left_of_the_old_chunk():
    new = np.ones((5, 1), np.float32)
    blended = Blend(4, curve="linear").blend(np.zeros((1, 1), np.float32), new)
    np.testing.assert_allclose(blended[:, 0], [0.5, 1, 1, 1, 1])
    np.testing.assert_array_equal(Blend(4).blend(np.zeros((0, 1), np.float32), new), new)
    np.testing.assert_array_equal(Blend(0).blend(np.zeros((3, 1), np.float32), new), new)


@pytest.mark.parametrize("arguments", [{"steps": -1}, {"curve": "round"}, {"discrete": (-1,)}])
def test_a_blend_that_makes_no_sense_is_refused(arguments):
    with pytest.raises(ValueError):
        Blend(**arguments)


@given(
    st.lists(st.floats(-5, 5, width=32), min_size=3, max_size=3),
    st.none() | st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3),
)
def test_limited_actions_are_within_the_limits_and_clipping_is_reported(action, previous):
    limits = ActionLimits(low=(-1, -2, -np.inf), high=2, largest_change=(0.5, np.inf, 3))
    action = np.array(action, np.float32)
    before = None if previous is None else np.array(previous, np.float32)
    allowed, changed = limits.apply(action, before)
    assert (allowed >= [-1, -2, -np.inf]).all()
    assert (allowed <= 2).all()
    if before is not None:
        assert (np.abs(allowed.astype(float) - before) <= np.array([0.5, np.inf, 3]) + 1e-6).all()
    np.testing.assert_array_equal(allowed[~changed], action[~changed])
    again, _ = limits.apply(allowed, before)
    np.testing.assert_allclose(again, allowed, atol=1e-6)


def test_no_limits_change_nothing():
    allowed, changed = ActionLimits().apply(np.float32([1e9, -3]), np.float32([0, 0]))
    np.testing.assert_array_equal(allowed, np.float32([1e9, -3]))
    assert not changed.any()


@pytest.mark.parametrize(
    "arguments",
    [{"low": 1, "high": 0}, {"low": (0, 0), "high": (1, 1, 1)}, {"largest_change": 0}, {"low": np.nan},
     {"high": [[1.0]]}],
)  # fmt: skip
def test_limits_that_make_no_sense_are_refused(arguments):
    with pytest.raises(ValueError):
        ActionLimits(**arguments)


def test_limits_for_another_robot_are_refused():
    ActionLimits(low=-1, high=(1, 1)).check(2)
    with pytest.raises(ValueError, match="high has 2 numbers, but an action has 3"):
        ActionLimits(low=-1, high=(1, 1)).check(3)


def test_execution_rules_are_read_and_applied():
    assert Execution.read("server", options=OPTIONS).horizon({"execute_steps": 3}, 8) == 3
    assert Execution.read("server", options=OPTIONS).horizon({"execute_steps": 30}, 8) == 8
    assert Execution.read(5, options=frozenset()).horizon({"execute_steps": 3}, 8) == 5
    assert Execution.read("fixed:5", options=OPTIONS).told == "fixed:5"
    assert Execution.read("fixed:5", options=frozenset()).told is None
    assert Execution.read("until_next", options=frozenset()).horizon({}, 8) == 8
    assert Execution.read("binary:8,4,8", options=OPTIONS).told == "binary:8,4,8"


def test_execution_rules_that_cannot_be_applied_are_refused():
    for text in ("server", "binary:8,4,8"):
        with pytest.raises(UnsupportedError, match="fixed:N"):
            Execution.read(text, options=frozenset())
    for text in ("fixed:0", "fixed:x", "0"):
        with pytest.raises(ValueError, match="whole number"):
            Execution.read(text, options=OPTIONS)
    with pytest.raises(UnsupportedError, match="more actions"):
        Execution.read("fixed:9", options=OPTIONS).horizon({}, 8)
    for steps in (None, 0, True, 2.5, "3"):
        with pytest.raises(WireError, match="execute_steps"):
            Execution.read("server", options=OPTIONS).horizon({"execute_steps": steps}, 8)


def test_the_next_chunk_is_asked_for_as_many_steps_early_as_replies_take():
    timing = Timing(control_hz=10)
    assert timing.lead == 1  # nothing is known yet
    timing.reply(30.0)  # the first, while the server compiled
    assert timing.lead > 100
    for _ in range(20):
        timing.reply(0.25)
    assert timing.lead == 3
    timing.reply(9.0)  # one that was slow changes nothing
    assert timing.lead == 3
    for _ in range(3):
        timing.reply(0.31)
    assert timing.lead == 4


def test_the_control_rate_is_measured_if_nobody_says_it():
    now = iter([0.0, 0.1, 0.2, 5.0, 5.1, 5.2, 5.3])
    timing = Timing(control_hz=None, clock=lambda: next(now))
    assert timing.period_s is None
    for _ in range(3):
        timing.step()
    timing.pause()
    for _ in range(4):
        timing.step()
    assert timing.period_s == pytest.approx(0.1)
