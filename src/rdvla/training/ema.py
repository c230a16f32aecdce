"""Exponential moving average of the trainable weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class ExponentialMovingAverage:
    """average <- average + (1 - d_n) (weight - average),  d_n = min(decay, (1 + n) / (warmup + n)).

    n counts the updates before this one. The warm-up lets the average forget the random start: without it a
    decay of 0.995 still holds 8 % of the initial weights after 500 updates.

    Args:
        parameters: the trainable parameters by name; the average starts at their present values.
        decay: d, 0 <= d < 1; 0 makes the average equal to the weights.
        warmup: see above, in updates.
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], *, decay: float, warmup: int) -> None:
        self.decay = decay
        self.warmup = warmup
        self._parameters = dict(parameters)
        self._average = {name: p.detach().clone() for name, p in self._parameters.items()}

    def decay_at(self, updates: int) -> float:
        """Return d_n for the update that follows `updates` earlier ones."""
        return min(self.decay, (1 + updates) / (self.warmup + updates))

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Take in the present weights, after an optimiser step that followed `updates` earlier ones."""
        weights = [p.detach() for p in self._parameters.values()]
        torch._foreach_lerp_(list(self._average.values()), weights, 1 - self.decay_at(updates))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average into the model for a `with` block, then the very same weights back."""
        kept = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._write(self._average)
        try:
            yield
        finally:
            self._write(kept)

    @torch.no_grad()
    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averaged tensors by parameter name."""
        return dict(self._average)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over averaged tensors that `state_dict` returned; names and shapes must agree.

        Raises:
            KeyError: a parameter has no average in `state`.
        """
        for name, average in self._average.items():
            average.copy_(state[name])
