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
from rdvla.engine import Engine
from rdvla.errors import ConfigError
from rdvla.heads import Context, Level, RecurrentConfig, RecurrentDepthHead
from tests.support.heads import SMALL, make_context, make_head
from tests.support.memory import peak_bytes, saved_bytes


def by_hand(head: RecurrentDepthHead, context: Context, state: Tensor, depth: int) -> Tensor:
    """The paper's loop: everything recomputed in every iteration, the adapter on the concatenation."""

    def through(blocks: nn.ModuleList, levels: tuple[Level, ...], x: Tensor) -> Tensor:
        for block, level in zip(blocks, levels, strict=True):
            x = block(x, block.cross_attention.project(context, level))
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
    actual = Engine(head).predict(context, stop=depth, initial_state=state).actions
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_same_seed_same_actions() -> None:
    head = make_head()
    context = make_context(head)
    first, again, other = (
        Engine(head).predict(context, stop=3, generator=torch.Generator().manual_seed(seed)).actions
        for seed in (5, 5, 6)
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


def test_gradient_flows_through_the_last_iterations_only() -> None:
    """Against an explicit graph that starts from the detached state after depth - d iterations."""
    head = make_head()
    context = make_context(head)
    depth, free = 8, 8 - SMALL.backprop_depth
    state = head.initial_state(2, torch.Generator().manual_seed(0)).detach().requires_grad_()
    head(context, depth=depth, initial_state=state).square().sum().backward()
    ours = {
        name: parameter.grad.clone()
        for name, parameter in head.named_parameters()
        if parameter.grad is not None
    }
    assert state.grad is None

    head.zero_grad()
    middle = Engine(head).predict(context, stop=free, initial_state=state.detach()).state
    encoded = head.encode(context)
    for _ in range(SMALL.backprop_depth):
        middle = head.iterate(middle, encoded)
    head.decode(middle, encoded).square().sum().backward()
    for name, parameter in head.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(ours[name], parameter.grad, atol=1e-5, rtol=1e-5)
    assert set(ours) >= {"action_queries", "core.0.feedforward.down.weight", "adapter.weight", "output.bias"}


def test_bfloat16_keeps_the_gradient_of_the_last_iterations() -> None:
    """Autocast keeps weights that it converted without gradient: later iterations must not reuse them."""
    head = make_head()
    context, depth = make_context(head), 3 * SMALL.backprop_depth
    gradients = []
    for enabled in (False, True):
        head.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            actions = head(context, depth=depth, generator=torch.Generator().manual_seed(0))
        actions.float().square().sum().backward()
        gradients.append({n: p.grad.clone() for n, p in head.named_parameters() if p.grad is not None})
    plain, converted = gradients
    assert plain.keys() == converted.keys()
    for name, value in plain.items():
        # Rounding to 8 bits some fifty times leaves a few percent; a lost gradient would be off by its norm.
        assert float((converted[name] - value).norm()) < 0.1 * float(value.norm()) + 1e-3, name


def test_a_shallow_update_reaches_the_initial_scale() -> None:
    head = make_head()
    head(make_context(head), depth=SMALL.backprop_depth).sum().backward()
    assert head.gamma_init.grad is not None and head.gamma_init.grad.abs().item() > 0


def test_unroll_and_forward_agree() -> None:
    head = make_head()
    context = make_context(head)
    state = head.initial_state(2).detach()
    for depth in (1, 3, 9):
        trained = head(context, depth=depth, initial_state=state)
        torch.testing.assert_close(
            trained.detach(),
            Engine(head).predict(context, stop=depth, initial_state=state).actions,
            atol=1e-6,
            rtol=1e-6,
        )


def test_training_memory_stops_growing_at_the_backprop_depth() -> None:
    head = make_head(replace(SMALL, backprop_depth=8))
    context = make_context(head)
    saved = {depth: saved_bytes(lambda d=depth: head(context, depth=d)) for depth in (1, 8, 9, 64)}
    assert saved[1] < saved[8]
    assert saved[8] == saved[9] == saved[64]


def test_inference_memory_does_not_grow_with_depth() -> None:
    head = make_head()
    context = make_context(head)
    peaks = {
        depth: peak_bytes(lambda d=depth: Engine(head).predict(context, stop=d)) for depth in (1, 2, 8, 64)
    }
    one_state = 2 * SMALL.chunk_size * SMALL.hidden_dim * 4
    assert 0 < peaks[1] <= peaks[2] <= peaks[1] + one_state  # from the second on the state before is kept
    assert peaks[2] == peaks[8] == peaks[64]
    assert saved_bytes(lambda: Engine(head).predict(context, stop=64)) == 0


@pytest.mark.parametrize("training", [True, False])
def test_keys_and_values_are_computed_once_a_query(training: bool) -> None:
    head = make_head(replace(SMALL, core=("late", "late"), coda=("late",)))
    context = make_context(head)
    calls: dict[str, int] = {}
    for name, module in head.named_modules():
        if name.endswith(("latents_kv", "vision_kv")):
            module.register_forward_hook(lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1}))
    if training:
        head(context, depth=20)
    else:
        Engine(head).predict(context, stop=Stop("action_change", threshold=1e-30, max_depth=20))
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
    prediction = Engine(head).predict(context, stop=64)
    assert prediction.actions.shape == (2, chunk, action)
    assert prediction.actions.isfinite().all()
    head(context, depth=3).sum().backward()
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
        Engine(head).predict(context, stop=2, initial_state=torch.zeros(1, 3, 16))
    with pytest.raises(ConfigError, match="stop must be"):
        Engine(head).predict(context, stop=2.5)
    with pytest.raises(ConfigError, match="at least 1"):
        Engine(head).predict(context, stop=0)
