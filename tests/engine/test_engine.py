"""The engine gives what the plain loop of the paper's file gives, for every stop rule and schedule."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rdvla.control import Stop
from rdvla.engine import Engine, Schedule, solve
from rdvla.engine.context import Unprojected
from rdvla.engine.steps import HeadSteps
from rdvla.heads.recurrent.stopping import limits_on
from tests.support.closeness import assert_no_close_calls, assert_stops_clearly
from tests.support.heads import SMALL, make_context, make_head, take

RULES = [
    Stop("action_change", threshold=2e-3),
    Stop("latent_change", threshold=0.03),
    Stop("action_change", threshold=1e-9, max_depth=5),
    Stop("deferred_action_change", threshold=2e-3, coda_below=0.1),
    Stop("deferred_action_change", threshold=1e-3, coda_below=0.02, min_depth=4, max_depth=6),
    Stop("deferred_action_change", threshold=1.0, coda_below=10.0, min_depth=3, max_depth=3),
]
SCHEDULES = [
    Schedule(),
    Schedule(sync_interval=1, shrink_below=0.5),
    Schedule(sync_interval=3, shrink_below=0.9),
    Schedule(4, 0.0),
    Schedule(2),
]
TOLERANCE = 3e-5  # of `close`: actions are at most 2, states at least 1 in the root mean square
MIXED = [
    5,
    "action_change:2e-3",
    Stop("latent_change", threshold=0.03),
    Stop("deferred_action_change", threshold=2e-3, coda_below=0.1),
    1,
    Stop("cosine", threshold=1e-4, max_depth=9),
]


def close(one: object, other: object) -> None:
    assert one.depth.tolist() == other.depth.tolist()
    assert one.converged.tolist() == other.converged.tolist()
    torch.testing.assert_close(one.actions, other.actions, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.state, other.state, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rule", [*RULES, Stop.fixed(1), Stop.fixed(7)], ids=Stop.describe)
def test_the_engine_is_the_plain_loop(rule: Stop) -> None:
    head = make_head()
    context = make_context(head, batch=6)
    state = head.initial_state(6, torch.Generator().manual_seed(0)).detach()
    state = state * torch.linspace(0.2, 6, 6)[:, None, None]
    assert_stops_clearly(head, context, stop=rule, initial_state=state, tolerance=TOLERANCE)
    close(
        Engine(head).predict(context, stop=rule, initial_state=state),
        head.predict(context, stop=rule, initial_state=state),
    )


@pytest.mark.parametrize("max_depth", [None, 4, [3, 40, 2, 40, 1, 40]], ids=["none", "one", "per sample"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_sample_of_a_batch_has_its_own_rule_and_limit(
    max_depth: int | list[int] | None, schedule: Schedule
) -> None:
    head = make_head()
    context = make_context(head, batch=6)
    state = head.initial_state(6, torch.Generator().manual_seed(0)).detach()
    assert_stops_clearly(
        head, context, stop=MIXED, max_depth=max_depth, initial_state=state, tolerance=TOLERANCE
    )
    limits = limits_on(state.device, MIXED, batch_size=6, max_depth=max_depth)
    with torch.no_grad():
        encoded = HeadSteps(head).encode(context)
        found = solve(HeadSteps(head), encoded, limits=limits, initial_state=state, schedule=schedule)
    close(found, head.predict(context, stop=MIXED, max_depth=max_depth, initial_state=state))
    for row, stop in enumerate(MIXED):
        cap = max_depth[row] if isinstance(max_depth, list) else max_depth
        alone = head.predict(take(context, row), stop=stop, max_depth=cap, initial_state=state[row : row + 1])
        close(alone, found.select([row]))


def test_a_sample_that_its_deadline_ended_has_not_converged() -> None:
    head = make_head()
    prediction = Engine(head).predict(make_context(head), stop=8, max_depth=[3, 12])
    assert prediction.depth.tolist() == [3, 8] and prediction.converged.tolist() == [False, True]


@pytest.mark.parametrize("rule", RULES, ids=Stop.describe)
def test_a_batch_stops_sample_by_sample_as_if_alone(rule: Stop) -> None:
    head = make_head()
    context = make_context(head, batch=6)
    state = head.initial_state(6, torch.Generator().manual_seed(0)).detach()
    state = state * torch.linspace(0.2, 6, 6)[:, None, None]  # so they stop at different depths
    assert_stops_clearly(head, context, stop=rule, initial_state=state, tolerance=TOLERANCE)
    together = Engine(head).predict(context, stop=rule, initial_state=state)
    for row in range(6):
        alone = Engine(head).predict(take(context, row), stop=rule, initial_state=state[row : row + 1])
        assert alone.depth.item() == together.depth[row].item()
        assert alone.converged.item() == together.converged[row].item()
        torch.testing.assert_close(alone.actions[0], together.actions[row], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone.state[0], together.state[row], atol=1e-5, rtol=1e-5)
        fixed = Engine(head).predict(
            take(context, row), stop=int(alone.depth), initial_state=state[row : row + 1]
        )
        torch.testing.assert_close(alone.actions, fixed.actions, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("batch", [0, 1, 6])
@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("rule", [*RULES, Stop.fixed(3)], ids=Stop.describe)
def test_how_often_the_solver_synchronises_changes_nothing(rule: Stop, trace: bool, batch: int) -> None:
    head = make_head()
    state = head.initial_state(batch, torch.Generator().manual_seed(0)).detach()
    state = state * torch.linspace(0.2, 6, batch)[:, None, None]
    context = make_context(head, batch=batch)
    assert_stops_clearly(head, context, stop=rule, initial_state=state, tolerance=TOLERANCE)
    encoded = HeadSteps(head).encode(context)
    limits = limits_on(state.device, rule, batch_size=batch)
    with torch.no_grad():
        first, *others = (
            solve(
                HeadSteps(head), encoded, limits=limits, initial_state=state, schedule=schedule, trace=trace
            )
            for schedule in SCHEDULES
        )
    for other in others:
        assert torch.equal(other.depth, first.depth) and torch.equal(other.converged, first.converged)
        torch.testing.assert_close(other.actions, first.actions, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(other.state, first.state, atol=1e-6, rtol=1e-5)
        if trace:
            length = len(first.trace.actions)
            torch.testing.assert_close(
                other.trace.action_change[:length], first.trace.action_change, equal_nan=True
            )
            assert other.trace.action_change[length:].isnan().all()


@pytest.mark.parametrize("schedule", [Schedule(1, 1.0), Schedule(4, 0.5)])
@pytest.mark.parametrize(
    "rule", [Stop.fixed(12), Stop("latent_change", threshold=1e-9, max_depth=12)], ids=Stop.describe
)
def test_rules_that_ask_for_no_actions_run_the_coda_once(rule: Stop, schedule: Schedule) -> None:
    head = make_head()
    encoded = HeadSteps(head).encode(make_context(head))
    limits = limits_on(torch.device("cpu"), rule, batch_size=2)
    decoded = []
    head.output.register_forward_hook(lambda *_: decoded.append(1))
    with torch.no_grad():
        solve(HeadSteps(head), encoded, limits=limits, initial_state=head.initial_state(2), schedule=schedule)
    assert len(decoded) == 1


@pytest.mark.parametrize("rule", [*RULES, Stop.fixed(3)], ids=Stop.describe)
def test_a_context_left_unprojected_gives_the_same(rule: Stop) -> None:
    wide = replace(SMALL, hidden_dim=64)
    head = make_head(wide)
    context = make_context(head, batch=3, vision=120, latents=8)
    assert isinstance(HeadSteps(head).encode(context, coda_reads=1).coda[0], Unprojected)
    state = head.initial_state(3, torch.Generator().manual_seed(0)).detach()
    state = state * torch.linspace(0.2, 6, 3)[:, None, None]
    assert_stops_clearly(head, context, stop=rule, initial_state=state, tolerance=TOLERANCE)
    unprojected = Engine(head).predict(context, stop=rule, initial_state=state)
    projected = head.predict(context, stop=rule, initial_state=state)
    assert unprojected.depth.tolist() == projected.depth.tolist()
    torch.testing.assert_close(unprojected.actions, projected.actions, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tokens", [5, 120])
def test_an_empty_batch_and_a_trace_in_bfloat16_are_fine(tokens: int) -> None:
    head = make_head(replace(SMALL, hidden_dim=64))
    with torch.no_grad():
        empty = make_context(head, batch=0, vision=tokens)
        assert Engine(head).predict(empty, stop=3).actions.shape == (0, SMALL.chunk_size, SMALL.action_dim)
        with torch.autocast("cpu", torch.bfloat16):
            traced = Engine(head).predict(
                make_context(head, vision=tokens), stop=Stop("action_change", max_depth=4), trace=True
            )
    assert traced.trace.action_change[1].isfinite().all()


def test_a_deferred_coda_stops_where_the_papers_rule_does_and_decodes_less() -> None:
    head = make_head()
    state = head.initial_state(1, torch.Generator().manual_seed(0)).detach()
    context = make_context(head, batch=1)
    traced = Engine(head).predict(
        context, stop=Stop("action_change", threshold=1e-3), initial_state=state, trace=True
    )
    assert traced.trace is not None
    assert_no_close_calls(traced.trace, Stop("action_change", threshold=1e-3), tolerance=TOLERANCE)
    depth = int(traced.depth)
    assert depth > 5
    decoded = []
    head.output.register_forward_hook(lambda *_: decoded.append(1))
    gate = 1.01 * float(traced.trace.latent_change[depth - 1])
    deferred = Engine(head).predict(
        context, stop=Stop("deferred_action_change", threshold=1e-3, coda_below=gate), initial_state=state
    )
    assert deferred.depth.tolist() == [depth] and deferred.converged.all()
    torch.testing.assert_close(deferred.actions, traced.actions, atol=1e-6, rtol=1e-5)
    assert len(decoded) < depth
    late = Engine(head).predict(
        context,
        stop=Stop("deferred_action_change", threshold=1e-3, coda_below=0.9 * gate),
        initial_state=state,
    )
    assert int(late.depth) > depth


def test_samples_of_the_batch_do_stop_at_different_depths() -> None:
    head = make_head()
    context = make_context(head, batch=8)
    state = head.initial_state(8, torch.Generator().manual_seed(0)).detach()
    depths = (
        Engine(head).predict(context, stop=Stop("action_change", threshold=1e-4), initial_state=state).depth
    )
    assert len(set(depths.tolist())) > 1


def test_the_rule_stops_at_the_first_change_below_the_threshold() -> None:
    head = make_head()
    context = make_context(head, batch=4)
    state = head.initial_state(4, torch.Generator().manual_seed(0)).detach()
    prediction = Engine(head).predict(
        context, stop=Stop("action_change", threshold=1e-4), initial_state=state, trace=True
    )
    trace = prediction.trace
    assert trace is not None and torch.isnan(trace.action_change[0]).all()
    for row, depth in enumerate(prediction.depth.tolist()):
        changes = trace.action_change[:, row]
        assert changes[depth - 1] < 1e-4
        assert (changes[1 : depth - 1] >= 1e-4).all()
        assert torch.isnan(changes[depth:]).all()
        torch.testing.assert_close(trace.actions[depth - 1, row], prediction.actions[row])


def test_depth_limits_are_kept() -> None:
    head = make_head()
    context = make_context(head, batch=3)
    late = Engine(head).predict(context, stop=Stop("action_change", threshold=1e9, min_depth=5))
    assert late.depth.tolist() == [5, 5, 5] and late.converged.all()
    never = Engine(head).predict(context, stop=Stop("action_change", threshold=1e-30, max_depth=7))
    assert never.depth.tolist() == [7, 7, 7] and not never.converged.any()
