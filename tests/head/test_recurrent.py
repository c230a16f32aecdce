"""Properties of the head: what depth, seeds, gradients and memory must and must not do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from rdvla.control import Stop
from rdvla.engine import Schedule, solve
from rdvla.engine.context import Unprojected
from rdvla.errors import ConfigError
from rdvla.heads import Context, Level, RecurrentConfig, RecurrentDepthHead
from rdvla.heads.recurrent.model import CrossAttention
from tests.support.heads import SMALL, make_context, make_head, take
from tests.support.memory import peak_bytes, saved_bytes


def by_hand(head: RecurrentDepthHead, context: Context, state: Tensor, depth: int) -> Tensor:
    """The paper's loop: everything recomputed in every iteration, the adapter on the concatenation."""

    def through(blocks: nn.ModuleList, levels: tuple[Level, ...], x: Tensor) -> Tensor:
        for block, level in zip(blocks, levels, strict=True):
            features = {"vision": context.vision[level], "latents": context.latents[level]}
            x = block(x, block.cross_attention.keys_values(proprio=context.proprio, **features))
        return x

    config = head.config
    prelude = through(head.prelude, config.prelude, head.action_queries.expand(context.batch_size, -1, -1))
    for _ in range(depth):
        joined = torch.cat([state, prelude], dim=-1)
        x = head.adapter_norm(head.gamma_adapt * functional.linear(joined, head.adapter.weight))
        state = head.core_norm(through(head.core, config.core, x))
    return head.output(head.output_norm(through(head.coda, config.coda, state)))


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_forward_is_the_papers_loop(depth: int) -> None:
    head = make_head()
    context = make_context(head)
    state = head.initial_state(2).detach()
    with torch.no_grad():
        expected = by_hand(head, context, state, depth)
    actual = head(context, depth=depth, initial_state=state).actions
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_same_seed_same_actions() -> None:
    head = make_head()
    context = make_context(head)
    first, again, other = (
        head(context, depth=3, generator=torch.Generator().manual_seed(seed)).actions for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_initial_state_is_cut_at_three_sigma() -> None:
    head = make_head(replace(SMALL, hidden_dim=256, num_heads=2))
    with torch.no_grad():
        head.gamma_init.fill_(2.0)
        state = head.initial_state(64, torch.Generator().manual_seed(0))
    assert state.abs().max() <= 3 * 2 * 0.632
    assert state.std().item() == pytest.approx(2 * 0.632 * 0.9866, rel=0.01)


RULES = [
    Stop("action_change", threshold=2e-3),
    Stop("latent_change", threshold=0.03),
    Stop("action_change", threshold=1e-9, max_depth=5),
    Stop("deferred_action_change", threshold=2e-3, coda_below=0.1),
    Stop("deferred_action_change", threshold=1e-3, coda_below=0.02, min_depth=4, max_depth=6),
    Stop("deferred_action_change", threshold=1.0, coda_below=10.0, min_depth=3, max_depth=3),
]
PACINGS = [
    Schedule(),
    Schedule(sync_interval=1, shrink_below=0.5),
    Schedule(sync_interval=3, shrink_below=0.9),
    Schedule(4, 0.0),
    Schedule(2),
]


@pytest.mark.parametrize("rule", RULES, ids=Stop.describe)
def test_a_batch_stops_sample_by_sample_as_if_alone(rule: Stop) -> None:
    head = make_head()
    context = make_context(head, batch=6)
    state = head.initial_state(6, torch.Generator().manual_seed(0)).detach()
    state = state * torch.linspace(0.2, 6, 6)[:, None, None]  # so that they stop at different depths
    together = head(context, depth=rule, initial_state=state)
    for row in range(6):
        alone = head(take(context, row), depth=rule, initial_state=state[row : row + 1])
        assert alone.depth.item() == together.depth[row].item()
        assert alone.converged.item() == together.converged[row].item()
        torch.testing.assert_close(alone.actions[0], together.actions[row], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone.state[0], together.state[row], atol=1e-5, rtol=1e-5)
        fixed = head(take(context, row), depth=int(alone.depth), initial_state=state[row : row + 1])
        torch.testing.assert_close(alone.actions, fixed.actions, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("batch", [0, 1, 6])
@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("rule", [*RULES, Stop.fixed(3)], ids=Stop.describe)
def test_how_often_one_looks_changes_nothing(rule: Stop, trace: bool, batch: int) -> None:
    head = make_head()
    state = head.initial_state(batch, torch.Generator().manual_seed(0)).detach()
    state = state * torch.linspace(0.2, 6, batch)[:, None, None]
    encoded = head.encode(make_context(head, batch=batch))
    with torch.no_grad():
        first, *others = (
            solve(head, encoded, rule=rule, initial_state=state, schedule=pacing, trace=trace)
            for pacing in PACINGS
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


@pytest.mark.parametrize("pacing", [Schedule(1, 1.0), Schedule(4, 0.5)])
@pytest.mark.parametrize(
    "rule", [Stop.fixed(12), Stop("latent_change", threshold=1e-9, max_depth=12)], ids=Stop.describe
)
def test_rules_that_read_no_actions_run_the_coda_once(rule: Stop, pacing: Schedule) -> None:
    head = make_head()
    encoded = head.encode(make_context(head))
    reads = []
    head.output.register_forward_hook(lambda *_: reads.append(1))
    with torch.no_grad():
        solve(head, encoded, rule=rule, initial_state=head.initial_state(2), schedule=pacing)
    assert len(reads) == 1


@pytest.mark.parametrize("rule", [*RULES, Stop.fixed(3)], ids=Stop.describe)
def test_a_head_that_leaves_its_context_unprojected_gives_the_same(rule: Stop) -> None:
    wide = replace(SMALL, hidden_dim=64)
    head = make_head(wide)
    context = make_context(head, batch=3, vision=120, latents=8)
    assert isinstance(head.encode(context, coda_reads=1).coda[0], Unprojected)
    state = head.initial_state(3, torch.Generator().manual_seed(0)).detach()
    state = state * torch.linspace(0.2, 6, 3)[:, None, None]
    unprojected = head(context, depth=rule, initial_state=state)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(CrossAttention, "_projecting_queries_pays", lambda *_: False)
        projected = head(context, depth=rule, initial_state=state)
    assert unprojected.depth.tolist() == projected.depth.tolist()
    torch.testing.assert_close(unprojected.actions, projected.actions, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tokens", [5, 120])
def test_an_empty_batch_and_a_trace_in_bfloat16_are_fine(tokens: int) -> None:
    head = make_head(replace(SMALL, hidden_dim=64))
    with torch.no_grad():
        empty = make_context(head, batch=0, vision=tokens)
        assert head(empty, depth=3).actions.shape == (0, SMALL.chunk_size, SMALL.action_dim)
        with torch.autocast("cpu", torch.bfloat16):
            traced = head(
                make_context(head, vision=tokens), depth=Stop("action_change", max_depth=4), trace=True
            )
    assert traced.trace.action_change[1].isfinite().all()


def test_a_deferred_coda_stops_where_the_papers_rule_does_and_is_read_less() -> None:
    head = make_head()
    state = head.initial_state(1, torch.Generator().manual_seed(0)).detach()
    context = make_context(head, batch=1)
    traced = head(context, depth=Stop("action_change", threshold=1e-3), initial_state=state, trace=True)
    depth = int(traced.depth)
    assert depth > 5
    reads = []
    head.output.register_forward_hook(lambda *_: reads.append(1))
    gate = 1.01 * float(traced.trace.latent_change[depth - 1])
    deferred = head(
        context, depth=Stop("deferred_action_change", threshold=1e-3, coda_below=gate), initial_state=state
    )
    assert deferred.depth.tolist() == [depth] and deferred.converged.all()
    torch.testing.assert_close(deferred.actions, traced.actions, atol=1e-6, rtol=1e-5)
    assert len(reads) < depth
    late = head(
        context,
        depth=Stop("deferred_action_change", threshold=1e-3, coda_below=0.9 * gate),
        initial_state=state,
    )
    assert int(late.depth) > depth


def test_samples_of_the_batch_do_stop_at_different_depths() -> None:
    head = make_head()
    context = make_context(head, batch=8)
    state = head.initial_state(8, torch.Generator().manual_seed(0)).detach()
    depths = head(context, depth=Stop("action_change", threshold=1e-4), initial_state=state).depth
    assert len(set(depths.tolist())) > 1


def test_the_rule_stops_at_the_first_change_below_the_threshold() -> None:
    head = make_head()
    context = make_context(head, batch=4)
    state = head.initial_state(4, torch.Generator().manual_seed(0)).detach()
    prediction = head(context, depth=Stop("action_change", threshold=1e-4), initial_state=state, trace=True)
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
    late = head(context, depth=Stop("action_change", threshold=1e9, min_depth=5))
    assert late.depth.tolist() == [5, 5, 5] and late.converged.all()
    never = head(context, depth=Stop("action_change", threshold=1e-30, max_depth=7))
    assert never.depth.tolist() == [7, 7, 7] and not never.converged.any()


def test_gradient_flows_through_the_last_iterations_only() -> None:
    """Against an explicit graph that starts from the detached state after depth - d iterations."""
    head = make_head()
    context = make_context(head)
    depth, free = 8, 8 - SMALL.backprop_depth
    state = head.initial_state(2, torch.Generator().manual_seed(0)).detach().requires_grad_()
    head.unroll(context, depth=depth, initial_state=state).actions.square().sum().backward()
    ours = {
        name: parameter.grad.clone()
        for name, parameter in head.named_parameters()
        if parameter.grad is not None
    }
    assert state.grad is None

    head.zero_grad()
    middle = head(context, depth=free, initial_state=state.detach()).state
    encoded = head.encode(context)
    for _ in range(SMALL.backprop_depth):
        middle = head.iterate(middle, encoded)
    head.decode(middle, encoded).square().sum().backward()
    for name, parameter in head.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(ours[name], parameter.grad, atol=1e-5, rtol=1e-5)
    assert set(ours) >= {"action_queries", "core.0.feedforward.down.weight", "adapter.weight", "output.bias"}


def test_a_shallow_update_reaches_the_initial_scale() -> None:
    head = make_head()
    head.unroll(make_context(head), depth=SMALL.backprop_depth).actions.sum().backward()
    assert head.gamma_init.grad is not None and head.gamma_init.grad.abs().item() > 0


def test_unroll_and_forward_agree() -> None:
    head = make_head()
    context = make_context(head)
    state = head.initial_state(2).detach()
    for depth in (1, 3, 9):
        trained = head.unroll(context, depth=depth, initial_state=state)
        torch.testing.assert_close(
            trained.actions.detach(),
            head(context, depth=depth, initial_state=state).actions,
            atol=1e-6,
            rtol=1e-6,
        )


def test_training_memory_stops_growing_at_the_backprop_depth() -> None:
    head = make_head(replace(SMALL, backprop_depth=8))
    context = make_context(head)
    saved = {depth: saved_bytes(lambda d=depth: head.unroll(context, depth=d)) for depth in (1, 8, 9, 64)}
    assert saved[1] < saved[8]
    assert saved[8] == saved[9] == saved[64]


def test_inference_memory_does_not_grow_with_depth() -> None:
    head = make_head()
    context = make_context(head)
    peaks = {depth: peak_bytes(lambda d=depth: head(context, depth=d)) for depth in (1, 2, 8, 64)}
    one_state = 2 * SMALL.chunk_size * SMALL.hidden_dim * 4
    assert 0 < peaks[1] <= peaks[2] <= peaks[1] + one_state  # from the second on the state before is kept
    assert peaks[2] == peaks[8] == peaks[64]
    assert saved_bytes(lambda: head(context, depth=64)) == 0


@pytest.mark.parametrize("training", [True, False])
def test_keys_and_values_are_computed_once_a_query(training: bool) -> None:
    head = make_head(replace(SMALL, core=("late", "late"), coda=("late",)))
    context = make_context(head)
    calls: dict[str, int] = {}
    for name, module in head.named_modules():
        if name.endswith(("latents_kv", "vision_kv")):
            module.register_forward_hook(lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1}))
    if training:
        head.unroll(context, depth=20)
    else:
        head(context, depth=Stop("action_change", threshold=1e-30, max_depth=20))
    assert len(calls) == 2 * 4 and set(calls.values()) == {1}


LEVELS = st.sampled_from(["middle", "late", 3, 12])


@settings(max_examples=25, deadline=None)
@given(
    parts=st.tuples(
        st.lists(LEVELS, max_size=2), st.lists(LEVELS, min_size=1, max_size=3), st.lists(LEVELS, max_size=2)
    ),
    heads=st.sampled_from([1, 2, 4]),
    head_dim=st.sampled_from([2, 4, 6]),
    chunk=st.integers(1, 5),
    action=st.integers(1, 5),
    context_dim=st.sampled_from([None, 6, 24]),
    rotary=st.sampled_from(["standard", "neighbour_pairs"]),
    adapter=st.sampled_from(["truncated_normal", "near_identity"]),
    tokens=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_any_configuration_runs_trains_and_stays_finite(
    parts: tuple[list[str | int], ...], heads: int, head_dim: int, chunk: int, action: int,
    context_dim: int | None, rotary: str, adapter: str, tokens: tuple[int, int],
) -> None:  # fmt: skip
    config = RecurrentConfig(
        hidden_dim=heads * head_dim, num_heads=heads, chunk_size=chunk, action_dim=action,
        context_dim=context_dim, prelude=tuple(parts[0]), core=tuple(parts[1]), coda=tuple(parts[2]),
        backprop_depth=2,
        rotary=rotary, adapter_init=adapter,  # type: ignore[arg-type]
    )  # fmt: skip
    head = make_head(config)
    context = make_context(head, batch=2, vision=tokens[0], latents=tokens[1])
    prediction = head(context, depth=64)
    assert prediction.actions.shape == (2, chunk, action)
    assert prediction.actions.isfinite().all()
    head.unroll(context, depth=3).actions.sum().backward()
    missing = [name for name, parameter in head.named_parameters() if parameter.grad is None]
    assert missing in ([], ["gamma_init"])  # beyond the backprop depth the initial state gets no gradient


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_dim": 18, "num_heads": 4}, "multiple of"),
        ({"hidden_dim": 12, "num_heads": 4}, "must be even"),
        ({"core": ()}, "at least one block"),
        ({"backprop_depth": 0}, "backprop_depth"),
        ({"rotary": "pairs"}, "neighbour_pairs"),
        ({"context_dim": 0}, "context_dim"),
    ],
)
def test_impossible_configurations_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **change)  # type: ignore[arg-type]


def test_bad_contexts_are_named() -> None:
    head = make_head()
    features = {"middle": torch.zeros(2, 3, 16), "late": torch.zeros(2, 3, 16)}
    proprio = torch.zeros(2, 1, 16)
    with pytest.raises(ValueError, match=r"vision lacks the context level 'middle'"):
        head.context(vision={"late": features["late"]}, latents=features, proprio=proprio)
    with pytest.raises(ValueError, match=r"latents\['late'\] must be"):
        head.context(vision=features, latents=features | {"late": torch.zeros(2, 3, 8)}, proprio=proprio)
    with pytest.raises(ValueError, match="proprio must be"):
        head.context(vision=features, latents=features, proprio=torch.zeros(2, 16))
    context = head.context(vision=features, latents=features, proprio=proprio)
    with pytest.raises(ValueError, match="initial_state must be"):
        head(context, depth=2, initial_state=torch.zeros(1, 3, 16))
    with pytest.raises(TypeError, match="stop rule"):
        head(context, depth=2.5)
    with pytest.raises(ConfigError, match="at least 1"):
        head(context, depth=0)
