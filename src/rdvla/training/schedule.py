"""The learning rate: linear warm-up, then half a cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class WarmupCosine:
    """Factor on the peak learning rate as a function of the update's number alone, so resuming needs no
    state.

    Updates are counted from 0. The warm-up rises linearly and reaches 1 with its last update;
    the cosine then falls to `final_fraction` with update `steps - 1`.
    """

    steps: int  # updates of the whole run
    warmup_steps: int  # updates of the rise
    final_fraction: float  # of the peak, at the last update

    def factor(self, update: int) -> float:
        """Return the factor for update number `update`, 0 .. steps - 1."""
        if update < self.warmup_steps:
            return (update + 1) / self.warmup_steps
        span = max(1, self.steps - 1 - self.warmup_steps)
        progress = min(1.0, (update - self.warmup_steps) / span)
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return self.final_fraction + (1 - self.final_fraction) * cosine
