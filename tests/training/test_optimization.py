"""Schedule, average and optimiser: against closed forms and explicit computation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from rdvla.errors import ConfigError
from rdvla.heads import RecurrentDepthHead
from rdvla.training.config import OptimizerConfig
from rdvla.training.optimization import (
    ExponentialMovingAverage,
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    parameter_groups,
)
from rdvla.training.schedule import Length, Schedule, WarmupCosine, with_length
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


def test_a_run_that_is_extended_warms_up_to_the_schedule_of_its_new_length() -> None:
    """From 2 % of the peak the rate must not jump to half of it, and must end at 2 % of it again."""
    lengths = with_length(with_length((), start=0, steps=100), start=100, steps=200)
    schedule = Schedule(lengths, warmup=lambda _: 10, final_fraction=0.02)
    short, long = (WarmupCosine(steps, 10, 0.02) for steps in (100, 200))
    factors = [schedule.factor(update) for update in range(200)]
    assert factors[:100] == [short.factor(update) for update in range(100)]
    assert factors[109:] == [long.factor(update) for update in range(109, 200)]
    for number, factor in enumerate(factors[100:110], start=1):
        target = long.factor(99 + number)
        assert factor == pytest.approx(0.02 + (target - 0.02) * number / 10)
    assert max(abs(b - a) for a, b in itertools.pairwise(factors)) < 0.11  # the first rise is 0.1 each


def test_a_run_may_change_its_length_several_times() -> None:
    lengths = with_length((), start=0, steps=100)
    assert with_length(lengths, start=50, steps=100) == lengths  # resumed as it was
    lengths = with_length(with_length(lengths, start=40, steps=300), start=60, steps=80)
    assert lengths == (Length(0, 100), Length(40, 300), Length(60, 80))
    schedule = Schedule(lengths, warmup=lambda _: 30, final_fraction=0.1)
    at_40 = WarmupCosine(100, 30, 0.1).factor(39)
    at_59 = at_40 + (WarmupCosine(300, 30, 0.1).factor(59) - at_40) * 20 / 30  # still on its way
    assert schedule.factor(59) == pytest.approx(at_59)
    assert schedule.factor(60) == pytest.approx(at_59 + (WarmupCosine(80, 30, 0.1).factor(60) - at_59) / 30)
    assert with_length(lengths, start=0, steps=7) == (Length(0, 7),)  # nothing was done yet


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
