"""Schedule, average, sampler, objectives, optimiser: against closed forms and explicit computation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from rdvla.errors import ConfigError
from rdvla.head import RecurrentDepthHead
from rdvla.head.depth import ConstantDepth, LogNormalPoisson
from rdvla.policy import RDVLAPolicy
from rdvla.training.batches import Batch, non_finite_rows, shift_images
from rdvla.training.config import DepthConfig, OptimizerConfig
from rdvla.training.ema import ExponentialMovingAverage
from rdvla.training.objectives import ActionObjective, PerceptionObjective, absolute_error
from rdvla.training.optimizer import (
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    parameter_groups,
)
from rdvla.training.sampler import Sampler, depth_distribution, step_generator
from rdvla.training.schedule import WarmupCosine
from tests.support.tiny_training import policy_config


def test_schedule_is_linear_then_cosine() -> None:
    schedule = WarmupCosine(steps=111, warmup_steps=10, final_fraction=0.1)
    assert [schedule.factor(i) for i in range(10)] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert schedule.factor(10) == 1
    assert schedule.factor(60) == pytest.approx(0.55)  # half-way
    assert schedule.factor(110) == pytest.approx(0.1)
    for update in range(10, 111):
        expected = 0.1 + 0.9 * math.cos(math.pi * (update - 10) / 200) ** 2  # half-angle form
        assert schedule.factor(update) == pytest.approx(expected)


def test_average_follows_the_closed_form() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    ema = ExponentialMovingAverage({"w": weight}, decay=0.9, warmup=4)
    values = [1.0, *np.random.default_rng(0).normal(size=60).tolist()]
    for update, value in enumerate(values[1:]):
        weight.data.fill_(value)
        ema.update(update)
    decays = [min(0.9, (1 + n) / (4 + n)) for n in range(60)]
    # the weight of value i in the average is (1 - d_i) times all later decays
    later = np.cumprod([1.0, *decays[::-1]])[::-1]
    shares = [later[0], *((1 - d) * later[i + 1] for i, d in enumerate(decays))]
    assert sum(shares) == pytest.approx(1)
    assert ema.state_dict()["w"].item() == pytest.approx(float(np.dot(shares, values)), abs=1e-5)


def test_applying_the_average_gives_the_same_weights_back() -> None:
    layer = nn.Linear(3, 3)
    ema = ExponentialMovingAverage(dict(layer.named_parameters()), decay=0.5, warmup=1)
    average, weights = layer.weight.detach().clone(), torch.randn(3, 3)
    layer.weight.data.copy_(weights)
    with pytest.raises(KeyboardInterrupt), ema.applied():
        assert layer.weight.equal(average)
        raise KeyboardInterrupt
    assert layer.weight.equal(weights)


def test_draws_depend_on_seed_and_step_alone() -> None:
    sampler = Sampler(range(100), batch_size=16, seed=3, depth=LogNormalPoisson(mean=8))
    first = [sampler.draw(step) for step in (5, 6, 7)]
    again = [sampler.draw(step) for step in (7, 6, 5)][::-1]
    for a, b in zip(first, again, strict=True):
        assert a.rows.equal(b.rows)
        assert a.depth == b.depth
        assert torch.randn(4, generator=a.generator).equal(torch.randn(4, generator=b.generator))
    assert not first[0].rows.equal(first[1].rows)
    other = Sampler(range(100), batch_size=16, seed=4, depth=ConstantDepth(1))
    assert not other.draw(5).rows.equal(first[0].rows)
    assert step_generator(1, 2).initial_seed() != step_generator(2, 1).initial_seed()


def test_sampler_draws_only_given_rows_and_all_of_them() -> None:
    rows = [3, 5, 8, 13]
    sampler = Sampler(rows, batch_size=50, seed=0, depth=ConstantDepth(1))
    assert set(sampler.draw(0).rows.tolist()) == set(rows)
    with pytest.raises(ConfigError, match="no training rows"):
        Sampler([], batch_size=1, seed=0, depth=ConstantDepth(1))


def test_depth_distribution_takes_its_mean_from_the_head_unless_given() -> None:
    assert depth_distribution(DepthConfig(), head_mean=12) == LogNormalPoisson(mean=12, minimum=1, maximum=64)
    assert depth_distribution(DepthConfig(distribution="constant", mean=1), head_mean=12) == ConstantDepth(1)


def test_norms_biases_and_gates_do_not_decay() -> None:
    head = RecurrentDepthHead(policy_config().head)
    names = {id(p): name for name, p in head.named_parameters()}
    decayed, kept = parameter_groups(dict(head.named_parameters()), weight_decay=0.1)
    assert decayed["weight_decay"] == 0.1
    assert kept["weight_decay"] == 0
    undecayed = {names[id(p)] for p in kept["params"]}
    assert {"adapter_norm.weight", "output.bias", "core.0.cross_attention.vision_gate"} <= undecayed
    assert {"adapter.weight", "core.0.self_attention.qkv.weight"} <= {names[id(p)] for p in decayed["params"]}
    assert len(decayed["params"]) + len(kept["params"]) == len(names)


def test_optimizer_goes_on_bit_for_bit_from_its_tensors() -> None:
    torch.manual_seed(0)
    # convolutions in channels-last memory, as image encoders keep them
    layers = [nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    parameters = [dict(layer.named_parameters()) for layer in layers]
    optimizers = [make_optimizer(p, OptimizerConfig()) for p in parameters]
    inputs = torch.randn(6, 2, 4, 5, 5)

    def step(i: int, x: torch.Tensor) -> None:
        optimizers[i].zero_grad()
        layers[i](x).square().mean().backward()
        optimizers[i].step()

    for x in inputs[:3]:
        step(0, x)
    layers[1].load_state_dict(layers[0].state_dict())
    load_optimizer_tensors(optimizers[1], parameters[1], optimizer_tensors(optimizers[0], parameters[0]))
    for x in inputs[3:]:
        step(0, x)
        step(1, x)
    assert layers[0].weight.equal(layers[1].weight)


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(ConfigError, match="No parameter is trainable"):
        make_optimizer({}, OptimizerConfig())


def test_absolute_error_leaves_out_the_padding() -> None:
    predicted, target = torch.zeros(2, 3, 2), torch.ones(2, 3, 2)
    target[1, 1:] = 100.0
    is_pad = torch.tensor([[False, False, False], [False, True, True]])
    score = absolute_error(predicted, target, is_pad=is_pad)
    assert (score.total / score.count).item() == 1
    assert score.count.item() == 8


def _policy() -> RDVLAPolicy:
    torch.manual_seed(0)
    bounds = {"q01": [-1.0] * 4, "q99": [1.0] * 4}
    return RDVLAPolicy(policy_config(), {"action": bounds, "observation.state": bounds})


def _batch(policy: RDVLAPolicy, size: int = 3) -> Batch:
    from rdvla.processing import Observation

    images = torch.randint(0, 256, (size, 32, 32, 3), dtype=torch.uint8)
    observation = Observation(
        images={"front": images}, state=torch.randn(size, 4), instruction=["push"] * size
    )
    return Batch(
        rows=torch.arange(size),
        features=policy.frozen_inputs(observation),
        state=observation.state,
        actions=torch.randn(size, 4, 4),
        action_is_pad=torch.zeros(size, 4, dtype=torch.bool),
        environment_state=torch.randn(size, 3),
        keypoints=torch.rand(size, 1, 2, 2) * 2 - 1,
    )


def test_gradient_flows_through_the_last_iterations_only() -> None:
    policy, generator = _policy(), torch.Generator()
    batch = _batch(policy)
    loss = ActionObjective().loss(policy, batch, depth=5, generator=generator.manual_seed(1)).total
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
    policy = _policy()
    for depth, reached in ((2, True), (3, False)):
        policy.zero_grad(set_to_none=True)
        generator = torch.Generator().manual_seed(0)
        ActionObjective().loss(policy, _batch(policy), depth=depth, generator=generator).total.backward()
        assert (policy.head.gamma_init.grad is not None) == reached


def test_validation_reads_every_depth_as_the_head_would_by_itself() -> None:
    policy = _policy()
    batch = _batch(policy)
    scores = ActionObjective(depths=(1, 3, 7)).scores(
        policy, batch, generator=torch.Generator().manual_seed(2)
    )
    for depth in (1, 3, 7):
        context = policy.context_from(batch.features, batch.state)
        alone = policy.head(context, depth=depth, generator=torch.Generator().manual_seed(2)).actions
        score = scores[f"l1_depth_{depth}"]
        torch.testing.assert_close(score.total / score.count, (alone - batch.actions).abs().mean())


def test_perception_weight_adds_the_perception_loss() -> None:
    policy = _policy()
    batch = _batch(policy)
    losses = [
        objective.loss(policy, batch, depth=2, generator=torch.Generator().manual_seed(0)).total.item()
        for objective in (ActionObjective(), PerceptionObjective(), ActionObjective(perception_weight=0.5))
    ]
    assert losses[2] == pytest.approx(losses[0] + 0.5 * losses[1])


@pytest.mark.parametrize(("state", "message"), [(None, "does not have"), (torch.zeros(3, 5), "state_dim=5")])
def test_perception_without_a_fitting_state_is_an_error(state: torch.Tensor | None, message: str) -> None:
    policy = _policy()
    batch = replace(_batch(policy), environment_state=state)
    with pytest.raises(ConfigError, match=message):
        PerceptionObjective().loss(policy, batch, depth=1, generator=torch.Generator())


def test_shifted_images_are_cut_from_the_bordered_image() -> None:
    images = torch.randint(0, 256, (4, 2, 8, 8, 3), dtype=torch.uint8)
    features = {"images": images, "text_bytes": torch.arange(4)}
    shifted = shift_images(features, at_most=2, generator=torch.Generator().manual_seed(0))
    assert shifted["text_bytes"] is features["text_bytes"]
    bordered = np.pad(images.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    places = set()
    for sample, camera in np.ndindex(4, 2):
        crops = {(y, x): bordered[sample, camera, y : y + 8, x : x + 8] for y in range(5) for x in range(5)}
        matches = [
            k for k, crop in crops.items() if (crop == shifted["images"][sample, camera].numpy()).all()
        ]
        assert matches
        places.add(matches[0])
    assert len(places) > 1


def test_rows_that_are_not_finite_are_named() -> None:
    batch = _batch(_policy())
    batch.actions[1, 0, 0] = float("nan")
    sentences = non_finite_rows(replace(batch, rows=torch.tensor([7, 9, 11])))
    assert sentences == ["the action is not finite in rows [9]"]
