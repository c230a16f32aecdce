"""How often the solver looks at how many samples still run. It changes the time taken and no result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from rdvla.head.stopping import StopRule


@dataclass(frozen=True)
class Pacing:
    """How many iterations run between two looks, and when samples that stopped leave the batch."""

    check_every: int = 1  # iterations; on an accelerator each look waits for the device
    shrink_at: float = 1.0  # share of running samples below which the batch is cut to them

    @staticmethod
    def for_device(device: torch.device) -> Pacing:
        """Every iteration where a look is free, rarely where it is not."""
        return Pacing() if device.type == "cpu" else Pacing(check_every=4, shrink_at=0.5)

    def stretches(self, rule: StopRule) -> Iterator[range]:
        """The depths 1..max_depth in the stretches between two looks.

        Before a decision can fall there is nothing to look at, so that no state is kept.
        """
        first = rule.min_depth - 1 if rule.reads_actions else rule.min_depth  # a change has two ends
        for depth in range(1, first):
            yield range(depth, depth + 1)
        for depth in range(max(first, 1), rule.max_depth + 1, self.check_every):
            yield range(depth, min(depth + self.check_every, rule.max_depth + 1))
