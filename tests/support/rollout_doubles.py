"""A policy for the line task: no network, no images to speak of."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from rdvla.control import as_stop
from rdvla.types import Prediction


class BatchPolicy:
    """Moves faster the more queries share a batch, as no policy should."""

    def initial_state(self, batch_size, generator=None):
        return torch.randn(batch_size, 2, 3, generator=generator)

    def predict(self, observation, *, stop=None, initial_state=None):
        batch = observation.batch_size
        speed = 0.1 + 0.02 * batch + 0.01 * initial_state.mean(dim=(1, 2))
        return Prediction(
            actions=speed[:, None, None].expand(batch, 8, 1),
            depth=2 + (initial_state[:, 0, 0] > 0).long() + batch,
            converged=torch.ones(batch, dtype=torch.bool),
            state=initial_state,
        )


@dataclass
class StepPolicy:
    """Moves by 0.1 for each iteration (at most 0.4 an action); adaptive rules take 3 iterations."""

    queries: list[tuple[list[str], torch.Tensor]] = field(default_factory=list)
    fail_after: int | None = None  # raises at this call, like a process that is stopped there

    def initial_state(self, batch_size, generator=None):
        return torch.randn(batch_size, 2, 3, generator=generator)

    def predict(self, observation, *, stop=None, initial_state=None):
        if self.fail_after is not None and len(self.queries) >= self.fail_after:
            raise KeyboardInterrupt
        self.queries.append((list(observation.instruction), initial_state.clone()))
        batch = observation.batch_size
        rule = as_stop(stop)
        used = rule.max_depth if rule.is_fixed else 3
        speed = min(0.4, 0.1 * used)
        actions = torch.full((batch, 8, 1), speed)
        return Prediction(
            actions=actions,
            depth=torch.full((batch,), used),
            converged=torch.ones(batch, dtype=torch.bool),
            state=initial_state,
        )
