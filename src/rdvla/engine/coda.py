"""Which states the coda decodes: none in the loop, all of them, or those of samples that may stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rdvla.control import StopLimits
from rdvla.engine.context import select_coda
from rdvla.heads.recurrent.model import EncodedContext
from rdvla.heads.recurrent.stopping import Iteration


class Decoder:
    """Decodes the actions that the stop rules of a batch ask for, and no others.

    Args:
        coda: decodes states, as `Steps.decode` does.
        trace: decode all samples in every iteration, even if the rules can do without.
        sync_interval: iterations that run before the host learns which samples still do.
    """

    def __init__(
        self, coda: Callable[[Tensor, EncodedContext], Tensor], *, trace: bool, sync_interval: int
    ) -> None:
        self.coda = coda
        self.trace = trace
        self.sync_interval = sync_interval

    def decode(
        self,
        previous: Iteration,
        states: Sequence[Tensor],
        encoded: EncodedContext,
        limits: StopLimits,
        *,
        alive: Tensor,
        depths: Sequence[int],
    ) -> tuple[Iteration, list[Iteration]]:
        """Return the iteration before and those that led to `states`, with the actions that rules ask for.

        Actions that are not decoded are None, or NaN, which satisfies no limit.

        Args:
            previous: the iteration before.
            states: each (n, K, D), successive.
            encoded: context of the n samples.
            limits: their stop rules.
            alive: (n,) bool, the samples that have not stopped.
            depths: of the states.
        """
        # Which samples may stop is known only after a synchronisation; and rules that look at the actions
        # alone may stop any sample.
        chooses = not self.trace and self.sync_interval == 1 and limits.coda_reads is not None
        if chooses and limits.asks_for("actions"):
            (state,), (depth,) = states, depths
            previous, current = self._decode_chosen(
                previous, state, encoded, limits, alive=alive, depth=depth
            )
            return previous, [current]
        wanted = limits.asks_for("actions") and depths[-1] >= limits.first - 1  # a change has two ends
        if not wanted and not self.trace:
            return previous, [Iteration(state) for state in states]
        return previous, self._decode_all(states, encoded)

    def lacks(self, current: Iteration, alive: Tensor) -> Tensor:
        """Return which running samples have no actions in this iteration, (n,) bool."""
        if current.actions is None:
            return alive
        return alive & current.actions.isnan().flatten(1).any(dim=1)

    def complete(self, current: Iteration, encoded: EncodedContext, lacking: Tensor) -> Iteration:
        """Return the iteration with actions of those samples that `lacking`, a mask (n,), says have none."""
        samples = lacking.nonzero().flatten()
        if not len(samples):
            return current
        actions = _spread(self._decode(current.state, encoded, samples), samples, len(current.state))
        if current.actions is not None:
            actions = torch.where(lacking.view(-1, 1, 1), actions, current.actions)
        return Iteration(current.state, actions)

    def _decode_all(self, states: Sequence[Tensor], encoded: EncodedContext) -> list[Iteration]:
        """Decode in one batch for a single sample, whose coda costs what its weights cost; else in turn."""
        if len(states) == 1 or len(states[0]) != 1:
            return [Iteration(state, self.coda(state, encoded)) for state in states]
        together = torch.cat(list(states))
        actions = self._decode(together, encoded, torch.arange(len(together), device=together.device))
        return [
            Iteration(state, each) for state, each in zip(states, actions.chunk(len(states)), strict=True)
        ]

    def _decode_chosen(
        self,
        previous: Iteration,
        state: Tensor,
        encoded: EncodedContext,
        limits: StopLimits,
        *,
        alive: Tensor,
        depth: int,
    ) -> tuple[Iteration, Iteration]:
        """Decode the samples that may stop now, or must."""
        if depth < limits.first:
            return previous, Iteration(state)
        may = (depth >= limits.min_depth) & limits.satisfied("state", previous.state, state)
        must = depth >= limits.max_depth
        samples = (alive & (may | must)).nonzero().flatten()
        if not len(samples):
            return previous, Iteration(state)
        before = previous.actions
        if before is not None and not before[samples].isnan().any():
            actions = self._decode(state, encoded, samples)
            return previous, Iteration(state, _spread(actions, samples, len(state)))
        # The actions before are not known yet: both in one batch.
        both = self._decode(
            torch.cat([previous.state, state]), encoded, torch.cat([samples, samples + len(state)])
        )
        earlier, later = both.chunk(2)
        return (
            Iteration(previous.state, _spread(earlier, samples, len(state))),
            Iteration(state, _spread(later, samples, len(state))),
        )

    def _decode(self, states: Tensor, encoded: EncodedContext, samples: Tensor) -> Tensor:
        batch = len(encoded.injection)
        every = len(samples) == len(states) == batch
        return self.coda(states[samples], encoded if every else select_coda(encoded, samples % batch))


def _spread(actions: Tensor, samples: Tensor, batch: int) -> Tensor:
    out = actions.new_full((batch, *actions.shape[1:]), torch.nan)
    out[samples] = actions
    return out
