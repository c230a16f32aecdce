"""What a policy is trained on: against explicit computation, and through its `forward` alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from rdvla.control import WarmStart
from rdvla.errors import ConfigError
from rdvla.heads import absolute_error
from rdvla.policy.batch import EarlierQueries
from rdvla.policy.losses import LossWeights
from rdvla.training import Trainer
from rdvla.training.config import LossConfig
from tests.support.tiny_training import tiny_batch, tiny_policy, train_config

PERCEPTION = LossWeights(actions=0.0, perception=1.0)


def test_absolute_error_leaves_out_the_padding() -> None:
    predicted, target = torch.zeros(2, 3, 2), torch.ones(2, 3, 2)
    target[1, 1:] = 100.0
    is_pad = torch.tensor([[False, False, False], [False, True, True]])
    score = absolute_error(predicted, target, is_pad=is_pad)
    assert (score.total / score.count).item() == 1
    assert score.count.item() == 8


def test_gradient_flows_through_the_last_iterations_only() -> None:
    policy, generator = tiny_policy(), torch.Generator()
    batch = tiny_batch(policy)
    loss = policy(batch, depth=5, generator=generator.manual_seed(1)).total
    core = list(policy.head.core.parameters())
    found = torch.autograd.grad(loss, core)

    head, features = policy.head, policy.backbone.features(batch.features)
    proprio = policy.proprio_projector(batch.state)
    context = head.context(vision=features.vision, latents=features.latents, proprio=proprio)
    encoded = head.encode(context)
    state = head.initial_state(3, generator.manual_seed(1))

    def explicit(detached_at: int) -> tuple[torch.Tensor, ...]:
        s = state
        for k in range(5):
            s = head.iterate(s.detach() if k == detached_at else s, encoded)
        error = (head.decode(s, encoded) - batch.actions).abs().mean()
        return torch.autograd.grad(error, core, retain_graph=True)

    for a, b in zip(found, explicit(detached_at=3), strict=True):  # d = 2: iterations 3 and 4 of 0..4
        torch.testing.assert_close(a, b)
    assert any(not torch.allclose(a, b) for a, b in zip(found, explicit(detached_at=-1), strict=True))


def test_initial_state_gets_no_gradient_beyond_d_iterations() -> None:
    policy = tiny_policy()
    for depth, reached in ((2, True), (3, False)):
        policy.zero_grad(set_to_none=True)
        generator = torch.Generator().manual_seed(0)
        policy(tiny_batch(policy), depth=depth, generator=generator).total.backward()
        assert (policy.head.gamma_init.grad is not None) == reached


def test_validation_reads_every_depth_as_the_head_would_by_itself() -> None:
    policy = tiny_policy()
    batch = tiny_batch(policy)
    scores = policy.errors(batch, depths=(1, 3, 7), generator=torch.Generator().manual_seed(2))
    for depth in (1, 3, 7):
        context = policy.context_from(batch.features, batch.state)
        alone = policy.head(context, depth=depth, generator=torch.Generator().manual_seed(2))
        score = scores[depth]
        torch.testing.assert_close(score.total / score.count, (alone - batch.actions).abs().mean())


def test_perception_weight_adds_the_perception_loss() -> None:
    policy = tiny_policy()
    batch = tiny_batch(policy)
    losses = [
        policy(batch, losses=weights, depth=2, generator=torch.Generator().manual_seed(0)).total.item()
        for weights in (LossWeights(), PERCEPTION, LossWeights(perception=0.5))
    ]
    assert losses[2] == pytest.approx(losses[0] + 0.5 * losses[1])


@pytest.mark.parametrize(("state", "message"), [(None, "does not have"), (torch.zeros(3, 5), "state_dim=5")])
def test_perception_without_a_fitting_state_is_an_error(state: torch.Tensor | None, message: str) -> None:
    policy = tiny_policy()
    batch = replace(tiny_batch(policy), environment_state=state)
    with pytest.raises(ConfigError, match=message):
        policy(batch, losses=PERCEPTION)


class Wrapper(nn.Module):
    """Calls nothing but the wrapped module, as what trains in several processes does."""

    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        self.wrapped = wrapped

    def forward(self, *arguments: Any, **options: Any) -> Any:
        return self.wrapped(*arguments, **options)


@pytest.mark.parametrize(
    ("weights", "untrained"),
    [
        (LossWeights(), ("backbone.readout.",)),
        (PERCEPTION, ("head.", "proprio_projector.", "backbone.latent")),
        (LossWeights(perception=0.5, keypoints=0.1), ()),
    ],
    ids=["actions", "perception", "both"],
)
def test_every_trained_parameter_gets_its_gradient_through_forward_alone(
    weights: LossWeights, untrained: tuple[str, ...]
) -> None:
    policy = tiny_policy()
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(not name.startswith(untrained))
    batch, generator = tiny_batch(policy), torch.Generator().manual_seed(0)
    Wrapper(policy)(batch, losses=weights, depth=2, generator=generator).total.backward()  # d = 2
    without = {name for name, p in policy.named_parameters() if p.requires_grad and p.grad is None}
    assert not without
    assert all(bool(p.grad.isfinite().all()) for p in policy.parameters() if p.grad is not None)


def test_samples_that_go_on_from_an_earlier_query_train_through_forward_alone() -> None:
    """Their S_0 is a number; the others' noise still trains its scale."""
    policy = tiny_policy()
    ended = torch.randn(1, 4, 16)
    earlier = EarlierQueries(WarmStart("midpoint"), torch.tensor([1]), ended, executed=(3,))
    batch = replace(tiny_batch(policy), earlier=earlier)
    loss = Wrapper(policy)(batch, depth=2, generator=torch.Generator().manual_seed(0)).total

    noise = policy.head.initial_state(3, torch.Generator().manual_seed(0))
    start = torch.stack([noise[0], (noise[1] + ended[0]) / 2, noise[2]])
    by_hand = policy(batch, depth=2, initial_state=start).total
    gradients = [torch.autograd.grad(one, policy.head.gamma_init)[0] for one in (loss, by_hand)]
    assert loss.equal(by_hand) and gradients[0] != 0
    torch.testing.assert_close(*gradients)


def test_the_nearest_of_several_initial_states_is_trained_and_validated(
    dataset: Path, tmp_path: Path
) -> None:
    """One candidate is the paper's; with more, the nearest ones are no worse in any sample."""
    one, four = (
        Trainer(
            train_config(dataset, tmp_path / str(count), loss=LossConfig(candidates=count)),
            console=Console(quiet=True),
        )
        for count in (1, 4)
    )
    losses = [
        trainer.update(replace(trainer.sampler.draw(0), depth=2)).scalars["loss"] for trainer in (one, four)
    ]
    assert losses[1] < losses[0]
    frames = four.validation_frames
    figures = four.objective.scores(
        four.policy.eval(), four.source.batch(frames), frames, generator=torch.Generator().manual_seed(0)
    )
    last = four.config.validation.depths[-1]
    assert list(figures)[-1] == f"nearest_l1_depth_{last}"
    assert float(figures[f"nearest_l1_depth_{last}"].mean) < float(figures[f"l1_depth_{last}"].mean)
    assert not any(
        name.startswith("nearest")
        for name in one.objective.scores(
            one.policy.eval(), one.source.batch(frames), frames, generator=torch.Generator().manual_seed(0)
        )
    )
