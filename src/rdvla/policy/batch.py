"""What a policy is trained on: observations with the actions that were demonstrated there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rdvla.control import WarmStart

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class EarlierQueries:
    """Queries that some samples of a batch go on from, as a robot's queries do with a warm start."""

    warm_start: WarmStart
    samples: Tensor  # (n,) int64, which samples of the batch
    states: Tensor  # (n, K, D), the state that each earlier query ended with, without gradient
    executed: tuple[int, ...]  # n numbers of control steps from the earlier query to the sample

    def initial_state(self, noise: Tensor) -> Tensor:
        """Return S_0 of the whole batch, (B, K, D); other samples keep their `noise` (B, K, D)."""
        states = noise.clone()
        states[self.samples] = self.warm_start.start(
            noise[self.samples], self.states.to(noise), self.executed
        )
        return states


@dataclass(frozen=True)
class Share:
    """Rows of an update's batch that are computed apart: by one process, in one accumulation step.

    Random numbers are drawn for the whole batch, so they do not depend on how it is shared out. Each loss
    counts by the part of what it averages over, so the losses of all shares add up to the whole batch's.
    """

    first: int  # row of the whole batch
    size: int  # rows
    whole: int  # B, samples of the whole batch
    steps: float = 1.0  # part of the whole batch's action steps, without padding, that is in these rows
    points: float = 1.0  # the same of its keypoints inside the image

    @property
    def samples(self) -> float:
        """Part of the whole batch's samples that is in these rows."""
        return self.size / self.whole

    def of(self, values: Tensor) -> Tensor:
        """Return these rows of (B, ...)."""
        return values[self.first : self.first + self.size]


@dataclass(frozen=True)
class Batch:
    """B samples on the policy's device, in the units that the policy computes in."""

    features: Mapping[str, Tensor]  # from `policy.frozen_inputs` or a cache of it, each (B, ...)
    state: Tensor  # (B, S), normalised proprioception
    actions: Tensor  # (B, K, A), normalised
    action_is_pad: Tensor  # (B, K) bool, True past the episode's end
    environment_state: Tensor | None = None  # (B, E), standardised; None: the dataset has none
    keypoints: Tensor | None = None  # (B, cameras, P, 2) in the images, -1..1; None: the dataset has none
    earlier: EarlierQueries | None = None  # None: every sample starts from noise
    share: Share | None = None  # which rows of an update's batch these are; None: all of them

    @property
    def size(self) -> int:
        """Number of samples, B."""
        return len(self.state)
