"""When the coda reads the state: never in the loop, in every iteration, or where it can matter."""

from __future__ import annotations

import torch
from torch import Tensor

from rdvla.head.steps import EncodedContext, Steps
from rdvla.head.stopping import DeferredActionChange, Iteration, StopRule


class Reader:
    """Reads the actions that a rule asks for off the states, and no others.

    Args:
        steps: with the coda.
        rule: the stop rule.
        everything: read all samples in every iteration, whatever the rule can do without.
    """

    def __init__(self, steps: Steps, rule: StopRule, *, everything: bool) -> None:
        self.steps = steps
        self.rule = rule
        self.everything = everything

    def read(
        self, previous: Iteration, state: Tensor, encoded: EncodedContext, *, alive: Tensor, depth: int
    ) -> tuple[Iteration, Iteration]:
        """The iteration before and the one that led to `state` (n, K, D), with what the rule needs to know.

        Actions that are not read are NaN, which satisfies no rule.
        """
        rule = self.rule
        if not rule.reads_actions and not self.everything:
            return previous, Iteration(state)
        if self.everything or not isinstance(rule, DeferredActionChange):
            return previous, Iteration(state, self.steps.decode(state, encoded))
        if depth < rule.min_depth:
            return previous, Iteration(state)
        wanted = alive & rule.may_stop(previous, Iteration(state))
        previous, current = self._read(previous, state, encoded, wanted.nonzero().flatten())
        if depth == rule.max_depth:  # it ends here for all, settled or not
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
