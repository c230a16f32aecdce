"""Stop rules applied to iterations; `rdvla.control.stop` has the table of rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rdvla.control import StopLimits, Stops, limits_of


@dataclass(frozen=True)
class Iteration:
    """What one iteration ends with."""

    state: Tensor  # S_k, (B, K, D)
    actions: Tensor | None = None  # a_k, (B, K, A); None if the coda did not run

    def select(self, samples: Tensor) -> Iteration:
        """Return some samples of the batch; `samples` is an index tensor."""
        return Iteration(self.state[samples], None if self.actions is None else self.actions[samples])


def limits_on(
    device: torch.device, stop: Stops, *, batch_size: int, max_depth: int | Sequence[int] | None = None
) -> StopLimits:
    """Bring the stop rules of a batch onto a device; see `rdvla.control.limits_of`."""
    limits = limits_of(stop, batch_size=batch_size, max_depth=max_depth)
    return limits.map(lambda array: torch.from_numpy(array).to(device))


def satisfied(limits: StopLimits, previous: Iteration, current: Iteration) -> Tensor:
    """Return (B,) bool: every change that a sample's rule asks for is below its limit, at whatever depth."""
    result: Tensor = limits.satisfied("state", previous.state, current.state)
    if limits.asks_for("actions"):
        assert previous.actions is not None and current.actions is not None
        result = result & limits.satisfied("actions", previous.actions, current.actions)
    return result
