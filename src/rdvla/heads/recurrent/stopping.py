"""Checks stop rules between two iterations; `rdvla.control.stop` has the table of rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rdvla.control import StopLimits, Stops, limits_of


@dataclass(frozen=True)
class Iteration:
    """State and actions after one iteration."""

    state: Tensor  # S_k, (B, K, D)
    actions: Tensor | None = None  # a_k, (B, K, A); None if an engine did not run the coda

    def select(self, samples: Tensor) -> Iteration:
        """Return some samples of the batch; `samples` is an index tensor."""
        return Iteration(self.state[samples], None if self.actions is None else self.actions[samples])


def limits_on(
    device: torch.device, stop: Stops, *, batch_size: int, max_depth: int | Sequence[int] | None = None
) -> StopLimits:
    """Return the stop rules of a batch as tensors on a device; see `rdvla.control.limits_of`."""
    limits = limits_of(stop, batch_size=batch_size, max_depth=max_depth)
    return limits.map(lambda array: torch.from_numpy(array).to(device))


def satisfied(limits: StopLimits, previous: Iteration, current: Iteration) -> Tensor:
    """Return (B,) bool: every change that a sample's rule asks for is below its limit; ignore depths."""
    # True if no rule asks about the state.
    result: Tensor = limits.satisfied("state", previous.state, current.state)
    if limits.asks_for("actions"):
        assert previous.actions is not None and current.actions is not None  # decoded if a rule asks for them
        result = result & limits.satisfied("actions", previous.actions, current.actions)
    return result
