"""When the coda reads the state: never in the loop, in every iteration, or where it can matter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rdvla.head.steps import EncodedContext, Steps
from rdvla.head.stopping import DeferredActionChange, Iteration, StopRule


class Reader:
    """Reads the actions that a rule asks for off the states, and no others.

    Args:
        steps: with the coda.
        rule: the stop rule.
        trace: read all samples in every iteration, whatever the rule can do without.
        ahead: several iterations are run before one looks which samples still do.
    """

    def __init__(self, steps: Steps, rule: StopRule, *, trace: bool, ahead: bool) -> None:
        self.steps = steps
        self.rule = rule
        self.trace = trace
        # Which samples' actions matter is not known then: all are read.
        self.chooses = isinstance(rule, DeferredActionChange) and not trace and not ahead

    def read(
        self,
        previous: Iteration,
        states: Sequence[Tensor],
        encoded: EncodedContext,
        *,
        alive: Tensor,
        depths: Sequence[int],
    ) -> tuple[Iteration, list[Iteration]]:
        """The iteration before and those that led to `states`, with what the rule needs to know.

        Actions that are not read are None, or NaN, which satisfies no rule.

        Args:
            previous: the iteration before.
            states: each (n, K, D), successive.
            encoded: of the n samples.
            alive: (n,) bool, which samples have not stopped.
            depths: of the states.
        """
        if self.chooses:
            (state,), (depth,) = states, depths
            previous, current = self._read_chosen(previous, state, encoded, alive=alive, depth=depth)
            return previous, [current]
        asked = self.rule.reads_actions and depths[-1] >= self.rule.min_depth - 1  # a change has two ends
        if not asked and not self.trace:
            return previous, [Iteration(state) for state in states]
        return previous, self._read_all(states, encoded)

    def _read_all(self, states: Sequence[Tensor], encoded: EncodedContext) -> list[Iteration]:
        """In one batch for a lone sample, whose coda costs what its weights take to arrive; else in turn."""
        if len(states) == 1 or len(states[0]) != 1:
            return [Iteration(state, self.steps.decode(state, encoded)) for state in states]
        together = torch.cat(list(states))
        actions = self._decode(together, encoded, torch.arange(len(together), device=together.device))
        return [
            Iteration(state, read) for state, read in zip(states, actions.chunk(len(states)), strict=True)
        ]

    def _read_chosen(
        self, previous: Iteration, state: Tensor, encoded: EncodedContext, *, alive: Tensor, depth: int
    ) -> tuple[Iteration, Iteration]:
        """Only the samples that may stop, and the last iteration of all."""
        assert isinstance(self.rule, DeferredActionChange)
        if depth < self.rule.min_depth:
            return previous, Iteration(state)
        wanted = alive & self.rule.may_stop(previous, Iteration(state))
        previous, current = self._read(previous, state, encoded, wanted.nonzero().flatten())
        if depth == self.rule.max_depth:  # it ends here for all, settled or not
            current = Iteration(state, self.steps.decode(state, encoded))
        return previous, current

    def _read(
        self, previous: Iteration, state: Tensor, encoded: EncodedContext, rows: Tensor
    ) -> tuple[Iteration, Iteration]:
        """Both states' actions for some samples, in one batch where the earlier ones are not known yet."""
        if not len(rows):
            return previous, Iteration(state)
        before = previous.actions
        if before is not None and not before[rows].isnan().any():
            return previous, Iteration(state, _spread(self._decode(state, encoded, rows), rows, len(state)))
        both = self._decode(torch.cat([previous.state, state]), encoded, torch.cat([rows, rows + len(state)]))
        earlier, later = both.chunk(2)
        return (
            Iteration(previous.state, _spread(earlier, rows, len(state))),
            Iteration(state, _spread(later, rows, len(state))),
        )

    def _decode(self, states: Tensor, encoded: EncodedContext, rows: Tensor) -> Tensor:
        batch = len(encoded.injection)
        every = len(rows) == len(states) == batch
        return self.steps.decode(states[rows], encoded if every else encoded.select_coda(rows % batch))


def _spread(actions: Tensor, rows: Tensor, batch: int) -> Tensor:
    out = actions.new_full((batch, *actions.shape[1:]), torch.nan)
    out[rows] = actions
    return out
