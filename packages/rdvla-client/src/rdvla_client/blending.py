"""Smooth seams: a new chunk takes over from the old one gradually."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Curve = Literal["linear", "smooth"]


@dataclass(frozen=True)
class Blend:
    """How a new chunk's actions replace those that the old chunk still has for the same control steps."""

    steps: int = 4  # actions of the overlap; fewer if the old chunk has fewer left
    curve: Curve = "smooth"  # linear, or smooth: with no corner at either end
    discrete: tuple[int, ...] = ()  # dimensions that never take a value between two, such as a gripper's

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"a blend takes 0 or more steps, got {self.steps}")
        if self.curve not in get_args(Curve):
            raise ValueError(f"a blend's curve is one of {', '.join(get_args(Curve))}, got {self.curve!r}")
        if any(dimension < 0 for dimension in self.discrete):
            raise ValueError(f"discrete dimensions are counted from 0, got {self.discrete}")

    def weights(self, count: int) -> NDArray[np.float32]:
        """Return the new chunk's share over `count` steps, growing between 0 and 1, (count,)."""
        share = np.arange(1, count + 1, dtype=np.float32) / np.float32(count + 1)
        return share if self.curve == "linear" else share * share * (3 - 2 * share)

    def blend(self, old: NDArray[np.float32], new: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the actions to execute, (n, A).

        Args:
            old: what is left of the old chunk, (m, A).
            new: the new chunk from the same control step on, (n, A).
        """
        count = min(self.steps, len(old), len(new))
        weights = self.weights(count)[:, None]
        blended = new.copy()
        blended[:count] = (1 - weights) * old[:count] + weights * new[:count]
        discrete = list(self.discrete)
        blended[:, discrete] = new[:, discrete]
        return blended
