"""The training depth distribution against NumPy's own generators."""

import numpy as np
import pytest
import torch

from rdvla.errors import ConfigError
from rdvla.heads import ConstantDepth, LogNormalPoisson


@pytest.mark.parametrize("mean", [4.0, 32.0])
def test_distribution_matches_an_independent_draw(mean: float) -> None:
    generator = torch.Generator().manual_seed(0)
    distribution = LogNormalPoisson(mean=mean)
    ours = np.array([distribution.sample(generator) for _ in range(8000)])
    rng = np.random.default_rng(1)
    theirs = np.clip(rng.poisson(np.exp(rng.normal(np.log(mean) - 0.125, 0.5, 8000))) + 1, 1, 64)
    error = 4 * np.sqrt(ours.var() / len(ours) + theirs.var() / len(theirs))  # four standard errors
    assert abs(ours.mean() - theirs.mean()) < error
    for quantile in (0.1, 0.5, 0.9):
        assert abs(np.quantile(ours, quantile) - np.quantile(theirs, quantile)) <= max(1, 0.06 * mean)
    assert ours.min() >= 1 and ours.max() <= 64


def test_same_seed_same_depths() -> None:
    draws = [
        [LogNormalPoisson().sample(generator) for _ in range(20)]
        for generator in (torch.Generator().manual_seed(3), torch.Generator().manual_seed(3))
    ]
    assert draws[0] == draws[1]


def test_constant() -> None:
    assert {ConstantDepth(8).sample(torch.Generator()) for _ in range(5)} == {8}


def test_impossible_distributions_are_refused() -> None:
    with pytest.raises(ConfigError):
        LogNormalPoisson(mean=0)
    with pytest.raises(ConfigError):
        LogNormalPoisson(minimum=5, maximum=4)
    with pytest.raises(ConfigError):
        ConstantDepth(0)
