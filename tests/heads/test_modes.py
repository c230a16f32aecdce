"""Of several initial states, the one that ends nearest to the demonstration is trained."""

from __future__ import annotations

import torch
from torch import Tensor

from rdvla.heads import Context, RecurrentConfig, RecurrentDepthHead
from rdvla.heads.recurrent.modes import nearest_initial_state

K, A, WIDTH = 2, 1, 16
UPDATES = 200
SIZE = 16  # samples of an update


def small_head(seed: int = 0) -> RecurrentDepthHead:
    torch.manual_seed(seed)
    config = RecurrentConfig(
        chunk_size=K,
        action_dim=A,
        hidden_dim=WIDTH,
        num_heads=2,
        prelude=(),
        core=("late",),
        coda=(),
        mean_depth=2,
    )
    return RecurrentDepthHead(config)


def features(size: int, seed: int = 0) -> Context:
    generator = torch.Generator().manual_seed(seed)
    tokens = {"late": torch.randn(size, 3, WIDTH, generator=generator)}
    return Context(vision=tokens, latents=tokens, proprio=torch.randn(size, 1, WIDTH, generator=generator))


def test_each_sample_takes_the_candidate_that_ends_nearest() -> None:
    head, context, size = small_head(), features(5), 5
    generator = torch.Generator().manual_seed(1)
    candidates = [head.initial_state(size, generator) for _ in range(4)]
    actions = torch.randn(size, K, A, generator=generator)
    is_pad = torch.zeros(size, K, dtype=torch.bool)
    is_pad[2, 1] = True
    actions[2, 1] = 1e6  # of a step that was not demonstrated
    found = nearest_initial_state(head, context, actions, is_pad=is_pad, depth=3, candidates=candidates)

    with torch.no_grad():
        ends = [head(context, depth=3, initial_state=candidate) for candidate in candidates]
    chosen = []
    for sample in range(size):
        steps = K - int(is_pad[sample].sum())
        errors = [float((end[sample, :steps] - actions[sample, :steps]).abs().mean()) for end in ends]
        chosen.append(errors.index(min(errors)))
        assert found[sample].equal(candidates[chosen[-1]][sample])
    assert len(set(chosen)) > 1, "every sample chose the same candidate: the test shows nothing"


def test_the_scale_of_initial_states_still_learns() -> None:
    head, context = small_head(), features(3)
    candidates = [head.initial_state(3, torch.Generator().manual_seed(seed)) for seed in range(2)]
    actions, is_pad = torch.zeros(3, K, A), torch.zeros(3, K, dtype=torch.bool)
    start = nearest_initial_state(head, context, actions, is_pad=is_pad, depth=2, candidates=candidates)
    head(context, depth=2, initial_state=start).sum().backward()
    assert head.gamma_init.grad is not None and float(head.gamma_init.grad.abs()) > 0


def spread(candidates: int) -> Tensor:
    """Train on two equally good ways, +0.8 and -0.8, and return 256 predictions, (256, K, A)."""
    head, generator = small_head(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
    context = features(1).select(torch.zeros(SIZE, dtype=torch.int64))
    is_pad = torch.zeros(SIZE, K, dtype=torch.bool)
    for _ in range(UPDATES):
        way = torch.randint(2, (SIZE, 1, 1), generator=generator) * 1.6 - 0.8
        actions = way.expand(SIZE, K, A)
        drawn = [head.initial_state(SIZE, generator) for _ in range(candidates)]
        start = nearest_initial_state(head, context, actions, is_pad=is_pad, depth=2, candidates=drawn)
        loss = head.loss(context, actions, is_pad=is_pad, depth=2, initial_state=start).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    many = features(1).select(torch.zeros(256, dtype=torch.int64))
    return head.predict(many, stop=2, generator=torch.Generator().manual_seed(9)).actions


def near_a_mode(actions: Tensor) -> float:
    return float(((actions.abs() - 0.8).abs() < 0.2).all(dim=(1, 2)).float().mean())


def test_candidates_cover_two_ways_of_which_one_initial_state_finds_one() -> None:
    alone, several = spread(candidates=1), spread(candidates=4)
    up_alone, up = (float((actions.mean(dim=(1, 2)) > 0).float().mean()) for actions in (alone, several))
    assert up_alone in (0.0, 1.0)
    assert 0.2 < up < 0.8
    assert near_a_mode(several) > 0.8
