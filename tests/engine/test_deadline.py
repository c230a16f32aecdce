"""A deadline ends a sample early enough, with what an undisturbed run has at that depth."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rdvla.control import Stop
from rdvla.engine import Engine, Schedule, engine_for, solve
from rdvla.engine.deadline import Timekeeper
from rdvla.engine.steps import HeadSteps
from rdvla.errors import InputError
from rdvla.heads import Context, RecurrentDepthHead
from rdvla.heads.recurrent.model import EncodedContext
from rdvla.heads.recurrent.stopping import limits_on
from rdvla.types import Prediction
from tests.support.heads import make_context, make_head
from tests.support.regression_head import RegressionConfig
from tests.support.tiny_models import make_observation, make_policy

RULES = [
    Stop.fixed(12),
    Stop("action_change", threshold=1e-9, max_depth=12),
    Stop("latent_change", threshold=1e-9, max_depth=12),
    Stop("deferred_action_change", threshold=1e-9, coda_below=0.1, max_depth=12),
    Stop("deferred_action_change", threshold=1e-9, coda_below=1e-9, max_depth=12),
    Stop("action_change", threshold=1e-9, min_depth=9, max_depth=12),
]
MIXED = [*RULES[:4], 3, "action_change:2e-3"]


class Clock:
    """Time that passes only with the work that is done."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class TimedSteps(HeadSteps):
    """A head's steps, each of which takes its time on a clock."""

    def __init__(
        self, head: RecurrentDepthHead, clock: Clock, *, iteration: float = 1.0, decoding: float = 0.0
    ) -> None:
        super().__init__(head)
        self._clock, self._iteration, self._decoding = clock, iteration, decoding

    def iterate(self, state: Tensor, encoded: EncodedContext) -> Tensor:
        self._clock.now += self._iteration
        return super().iterate(state, encoded)

    def decode(self, state: Tensor, encoded: EncodedContext) -> Tensor:
        self._clock.now += self._decoding
        return super().decode(state, encoded)


@pytest.fixture
def head() -> RecurrentDepthHead:
    return make_head().eval()


def start_of(head: RecurrentDepthHead, batch: int) -> Tensor:
    state = head.initial_state(batch, torch.Generator().manual_seed(0)).detach()
    return state * torch.linspace(0.2, 6, batch)[:, None, None]


def timed_engine(
    head: RecurrentDepthHead, *, iteration: float = 1.0, decoding: float = 0.0
) -> tuple[Engine, Clock]:
    clock = Clock()
    return Engine(head, TimedSteps(head, clock, iteration=iteration, decoding=decoding), clock=clock), clock


def close(one: Prediction, other: Prediction) -> None:
    assert one.depth.tolist() == other.depth.tolist()
    torch.testing.assert_close(one.actions, other.actions, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.state, other.state, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rule", RULES, ids=Stop.describe)
@pytest.mark.parametrize("depth", [1, 2, 5, 9, 11])
def test_a_sample_ends_at_the_last_depth_that_is_in_time(
    head: RecurrentDepthHead, rule: Stop, depth: int
) -> None:
    engine, clock = timed_engine(head)
    context, state = make_context(head, batch=3), start_of(head, 3)
    engine.predict(context, stop=rule, initial_state=state, deadline=math.inf)  # what decoding costs: nothing
    deadline = clock.now + depth + 0.5
    found = engine.predict(context, stop=rule, initial_state=state, deadline=deadline)
    assert found.depth.tolist() == [depth] * 3 and not found.converged.any()
    assert clock.now <= deadline
    close(found, Engine(head).predict(context, stop=rule, initial_state=state, max_depth=depth))


@pytest.mark.parametrize("schedule", [Schedule(), Schedule(1, 0.5), Schedule(3, 0.9), Schedule(4, 0.0)])
@pytest.mark.parametrize("trace", [False, True])
def test_samples_of_a_batch_have_deadlines_of_their_own(
    head: RecurrentDepthHead, schedule: Schedule, trace: bool
) -> None:
    context, state, clock = make_context(head, batch=6), start_of(head, 6), Clock()
    limits = limits_on(state.device, MIXED, batch_size=6)
    deadlines = [clock.now + after for after in (math.inf, 4.5, 2.5, 7.5, math.inf, -1)]
    with torch.no_grad():
        steps = TimedSteps(head, clock)
        encoded = steps.encode(context)
        keeper = Timekeeper(clock)
        for size in range(1, 7):
            keeper.learn_decoding(size, 0.0)
        watch = keeper.start(deadlines, device=state.device)
        found = solve(
            steps, encoded, limits=limits, initial_state=state, schedule=schedule, trace=trace, watch=watch
        )
    depths = found.depth.tolist()
    assert found.converged.tolist() == [True, False, False, False, True, False]
    assert depths[0] == 12 and depths[4] == 3 and depths[5] == 1
    for depth, most in zip(depths[1:4], (4, 2, 7), strict=True):
        assert depth == most if schedule.sync_interval == 1 else 1 <= depth <= most
    close(found, Engine(head).predict(context, stop=MIXED, initial_state=state, max_depth=depths))


@settings(max_examples=40, deadline=None)
@given(
    rule=st.sampled_from(RULES),
    iteration=st.floats(0.01, 2),
    decoding=st.floats(0, 2),
    time=st.floats(0, 30),
)
def test_no_sample_is_late_if_one_iteration_is_not(
    rule: Stop, iteration: float, decoding: float, time: float
) -> None:
    head = make_head().eval()
    engine, clock = timed_engine(head, iteration=iteration, decoding=decoding)
    context, state = make_context(head, batch=2), start_of(head, 2)
    engine.predict(context, stop=rule, initial_state=state, deadline=math.inf)
    # Two decodings, as a rule that begins to compare actions decodes two states at once.
    began, least = clock.now, iteration + 2 * decoding
    found = engine.predict(context, stop=rule, initial_state=state, deadline=began + time)
    assert int(found.depth.min()) >= 1
    if time >= least:
        assert clock.now <= began + time + 1e-9


def test_a_deadline_that_has_passed_leaves_one_iteration(head: RecurrentDepthHead) -> None:
    engine, clock = timed_engine(head)
    found = engine.predict(make_context(head), stop=8, deadline=clock.now - 5)
    assert found.depth.tolist() == [1, 1] and not found.converged.any()


def test_a_deadline_far_away_changes_nothing(head: RecurrentDepthHead) -> None:
    context, state = make_context(head), start_of(head, 2)
    for rule in RULES:
        free = Engine(head).predict(context, stop=rule, initial_state=state)
        for deadline in (math.inf, [None, math.inf], [None, None]):
            found = Engine(head).predict(context, stop=rule, initial_state=state, deadline=deadline)
            assert torch.equal(found.actions, free.actions) and torch.equal(found.state, free.state)
            assert torch.equal(found.depth, free.depth) and torch.equal(found.converged, free.converged)


def test_a_rule_that_is_satisfied_in_time_has_converged(head: RecurrentDepthHead) -> None:
    engine, clock = timed_engine(head)
    found = engine.predict(make_context(head), stop=[3, 8], deadline=clock.now + 4.5)
    assert found.depth.tolist()[0] == 3 and found.converged.tolist() == [True, False]


@pytest.mark.parametrize("deadline", [[1.0], [1.0, 2.0, 3.0], float("nan"), "soon", [1.0, "soon"], True])
def test_what_is_no_deadline_is_refused(head: RecurrentDepthHead, deadline: object) -> None:
    with pytest.raises(InputError, match="deadline"):
        Engine(head).predict(make_context(head), stop=2, deadline=deadline)


def test_a_head_that_does_not_iterate_takes_its_time() -> None:
    head = RegressionConfig(action_dim=2, chunk_size=3).make().eval()
    generator = torch.Generator().manual_seed(0)
    features = {"late": torch.randn(2, 4, 16, generator=generator)}
    context = Context(features, features, torch.randn(2, 1, 16, generator=generator))
    found = engine_for(head).predict(context, stop=4, deadline=0.0)
    assert torch.equal(found.actions, engine_for(head).predict(context, stop=4).actions)


def test_a_policy_hands_its_deadline_to_the_engine() -> None:
    policy = make_policy()
    clock = Clock()
    policy.engine = Engine(policy.head, TimedSteps(policy.head, clock), clock=clock)
    observation = make_observation(3)
    start = policy.initial_state(3, torch.Generator().manual_seed(0))
    deadlines = [clock.now + 2.5, None, clock.now + 1.5]
    found = policy.predict(
        observation, stop="action_change:1e-9:2:5", initial_state=start, deadline=deadlines
    )
    assert found.depth.tolist() == [2, 5, 1]
    same = policy.predict(
        observation, stop="action_change:1e-9:2:5", initial_state=start, max_depth=[2, 5, 1]
    )
    torch.testing.assert_close(found.actions, same.actions, atol=1e-5, rtol=1e-5)
