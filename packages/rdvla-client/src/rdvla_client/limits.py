"""Keeps actions within what a robot may do, and says when it had to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ActionLimits:
    """Bounds of every dimension of an action, in the robot's units; one number holds for all dimensions."""

    low: float | Sequence[float] | None = None  # smallest value
    high: float | Sequence[float] | None = None  # largest value
    largest_change: float | Sequence[float] | None = None  # from one control step to the next; inf: any

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if value is not None:
                bounds = np.asarray(value, np.float64)
                if bounds.ndim > 1 or np.isnan(bounds).any():
                    raise ValueError(f"{name} is a number for each dimension of an action, got {value!r}")
                # A tuple, so nobody changes a limit later.
                object.__setattr__(self, name, bounds.item() if bounds.ndim == 0 else tuple(bounds.tolist()))
        if self.largest_change is not None and np.any(np.asarray(self.largest_change) <= 0):
            raise ValueError(f"largest_change must be above 0, got {self.largest_change}")
        if self.low is not None and self.high is not None:
            try:
                crossed = bool(np.any(np.asarray(self.low) > np.asarray(self.high)))
            except ValueError:
                raise ValueError(f"low has another length than high: {self.low}, {self.high}") from None
            if crossed:
                raise ValueError(f"low must not be above high, got {self.low} and {self.high}")

    def check(self, action_dim: int) -> None:
        """Raise ValueError if the limits are for robots with another number of dimensions."""
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) not in (1, action_dim):
                raise ValueError(f"{name} has {len(value)} numbers, but an action has {action_dim}")

    def apply(
        self, action: NDArray[np.float32], previous: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the allowed action next to `action`, (A,), and which of its dimensions were changed, (A,).

        Args:
            action: (A,), finite.
            previous: the robot's last action, (A,), from which changes are counted; None: not known.
        """
        allowed = action.astype(np.float64)
        if self.largest_change is not None and previous is not None:
            change = np.asarray(self.largest_change)
            allowed = np.clip(allowed, previous - change, previous + change)
        if self.low is not None:
            allowed = np.maximum(allowed, self.low)
        if self.high is not None:
            allowed = np.minimum(allowed, self.high)
        changed = allowed != action
        return np.where(changed, allowed, action).astype(np.float32), changed
