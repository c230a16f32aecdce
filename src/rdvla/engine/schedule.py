"""How often the solver synchronises with the device. It changes the time taken and no result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from rdvla.control import StopLimits


@dataclass(frozen=True)
class Schedule:
    """When the solver asks how many samples still run, and when it cuts the batch to them."""

    sync_interval: int = 1  # iterations; on an accelerator every synchronisation waits for the device
    shrink_below: float = 1.0  # share of running samples below which the batch is cut to them

    @staticmethod
    def for_device(device: torch.device) -> Schedule:
        """Return every iteration if synchronising is free, as on a CPU, and a rare one if it is not."""
        return Schedule() if device.type == "cpu" else Schedule(sync_interval=4, shrink_below=0.5)

    def intervals(self, limits: StopLimits, *, watched: bool = False) -> Iterator[range]:
        """Yield the depths 1..last in the intervals between two synchronisations.

        Before the first depth at which a sample may stop there is nothing to ask, and no state is kept.

        Args:
            limits: the stop rules of the batch.
            watched: whether a sample has a deadline; then the first iteration is an interval of its own.
        """
        first = limits.first - 1 if limits.asks_for("actions") else limits.first  # a change has two ends
        if watched:
            first = max(first, 2)
        for depth in range(1, min(first, limits.last + 1)):
            yield range(depth, depth + 1)
        for depth in range(max(first, 1), limits.last + 1, self.sync_interval):
            yield range(depth, min(depth + self.sync_interval, limits.last + 1))
