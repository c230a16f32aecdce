"""Every random draw of a run, as a function of (seed, step)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rdvla.errors import ConfigError
from rdvla.head.depth import ConstantDepth, DepthDistribution, LogNormalPoisson
from rdvla.training.config import DepthConfig


def step_generator(seed: int, step: int) -> torch.Generator:
    """Return a fresh CPU generator for step `step` of the run with seed `seed`.

    The pair is hashed (NumPy's SeedSequence), so neighbouring seeds and steps give unrelated streams. As
    nothing is carried from step to step, a resumed run draws what an uninterrupted one would have drawn.
    """
    state = np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def depth_distribution(config: DepthConfig, *, head_mean: int) -> DepthDistribution:
    """Build the distribution that the configuration names; `head_mean` is its mean where it names none."""
    mean = head_mean if config.mean is None else config.mean
    if config.distribution == "constant":
        return ConstantDepth(int(mean))
    return LogNormalPoisson(mean=mean, minimum=config.minimum, maximum=config.maximum)


@dataclass(frozen=True)
class Draw:
    """What chance decides about one update, apart from noise drawn later from the same generator."""

    step: int  # number of the update, from 0
    rows: Tensor  # (B,) int64, dataset rows
    depth: int  # r, iterations
    generator: torch.Generator  # goes on to the initial state, the noise and warm starts, in this order


class Sampler:
    """Draws batches uniformly, with replacement, over the dataset rows of the training episodes.

    Args:
        rows: (N,) dataset rows that may start a chunk.
        batch_size: B.
        seed: of the run.
        depth: distribution of r.

    Raises:
        ConfigError: there are no rows.
    """

    def __init__(
        self, rows: Sequence[int] | Tensor, *, batch_size: int, seed: int, depth: DepthDistribution
    ) -> None:
        self._rows = torch.as_tensor(rows, dtype=torch.int64)
        if self._rows.numel() == 0:
            raise ConfigError(
                "There are no training rows: the dataset is empty or every episode is held out."
            )
        self._batch_size = batch_size
        self._seed = seed
        self._depth = depth

    def draw(self, step: int) -> Draw:
        """Return the draw of update number `step`; the same for the same step, whatever was drawn before."""
        generator = step_generator(self._seed, step)
        index = torch.randint(len(self._rows), (self._batch_size,), generator=generator)
        depth = self._depth.sample(generator)
        return Draw(step=step, rows=self._rows[index], depth=depth, generator=generator)
