"""How many iterations a training update runs (paper, training section)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch

from rdvla.errors import ConfigError


class DepthDistribution(Protocol):
    """Draws the depth of one training update, shared by the whole batch."""

    def sample(self, generator: torch.Generator | None = None) -> int:
        """Draw a depth, at least 1."""
        ...


@dataclass(frozen=True)
class LogNormalPoisson:
    """tau ~ Normal(ln m - s^2 / 2, s), r = Poisson(exp(tau)) + 1, clamped to minimum..maximum.

    The paper has s = 0.5.
    """

    mean: float = 32.0  # m, the mean of the Poisson's rate; at 32 the clamped r averages 32 as well
    sigma: float = 0.5  # s; ln m - s^2 / 2 is ln m - 0.125 at 0.5
    minimum: int = 1
    maximum: int = 64

    def __post_init__(self) -> None:
        if self.mean <= 0 or self.sigma < 0:
            raise ConfigError(
                f"mean must be positive and sigma not negative, got {self.mean} and {self.sigma}"
            )
        if not 1 <= self.minimum <= self.maximum:
            raise ConfigError(f"need 1 <= minimum <= maximum, got {self.minimum} and {self.maximum}")

    def sample(self, generator: torch.Generator | None = None) -> int:
        """Draw r."""
        device = "cpu" if generator is None else generator.device
        noise = torch.randn((), generator=generator, device=device)
        rate = torch.exp(noise * self.sigma + (math.log(self.mean) - self.sigma**2 / 2))
        drawn = int(torch.poisson(rate, generator=generator)) + 1
        return min(max(drawn, self.minimum), self.maximum)


@dataclass(frozen=True)
class ConstantDepth:
    """The same depth in every update; with 1, `rdvla train` trains a single-pass head."""

    depth: int = 1

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ConfigError(f"depth must be at least 1, got {self.depth}")

    def sample(self, generator: torch.Generator | None = None) -> int:
        """Return the constant."""
        del generator  # nothing is drawn
        return self.depth
