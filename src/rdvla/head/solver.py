"""Runs the iteration: every sample to its own depth, the context's keys and values computed beforehand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rdvla.head.prediction import Prediction, Trace
from rdvla.head.stopping import Iteration, StopRule, action_change, cosine_change, latent_change

if TYPE_CHECKING:
    from rdvla.head.recurrent import EncodedContext, RecurrentDepthHead


def solve(
    head: RecurrentDepthHead,
    encoded: EncodedContext,
    *,
    rule: StopRule,
    initial_state: Tensor,
    trace: bool = False,
) -> Prediction:
    """Iterate from `initial_state` (B, K, D) until `rule` has stopped every sample.

    A sample that stops leaves the batch, so that the others' cost falls and its own result is the one it
    would get alone.
    """
    results = _Results(head, initial_state)
    tracer = _Tracer(initial_state) if trace else None
    rows = torch.arange(len(initial_state), device=initial_state.device)  # the samples still running
    previous = Iteration(initial_state)
    for k in range(1, rule.max_depth + 1):
        current = _step(head, previous.state, encoded, read=trace or rule.reads_actions)
        if tracer is not None:
            tracer.record(rows, previous, current)
        stopped = _stopped(rule, k, previous, current)
        ended = stopped if k < rule.max_depth else torch.ones_like(stopped)
        if ended.any():
            results.write(rows, ended, depth=k, converged=stopped, current=current, encoded=encoded)
            if bool(ended.all()):
                break
            going = (~ended).nonzero().flatten()
            rows, encoded, current = rows[going], encoded.select(going), _select(current, going)
        previous = current
    return results.prediction(tracer.trace() if tracer is not None else None)


def _step(head: RecurrentDepthHead, state: Tensor, encoded: EncodedContext, *, read: bool) -> Iteration:
    state = head.iterate(state, encoded)
    return Iteration(state, head.decode(state, encoded) if read else None)


def _stopped(rule: StopRule, k: int, previous: Iteration, current: Iteration) -> Tensor:
    if k < rule.min_depth:
        return torch.zeros(len(current.state), dtype=torch.bool, device=current.state.device)
    return rule.satisfied(previous, current)


def _select(iteration: Iteration, rows: Tensor) -> Iteration:
    return Iteration(iteration.state[rows], None if iteration.actions is None else iteration.actions[rows])


class _Results:
    """The outcome of every sample, filled in as samples stop."""

    def __init__(self, head: RecurrentDepthHead, initial_state: Tensor) -> None:
        batch, chunk, _ = initial_state.shape
        self.head = head
        self.state = torch.empty_like(initial_state)
        self.actions = initial_state.new_empty(batch, chunk, head.config.action_dim)
        self.depth = torch.zeros(batch, dtype=torch.int64, device=initial_state.device)
        self.converged = torch.zeros(batch, dtype=torch.bool, device=initial_state.device)

    def write(
        self,
        rows: Tensor,
        ended: Tensor,
        *,
        depth: int,
        converged: Tensor,
        current: Iteration,
        encoded: EncodedContext,
    ) -> None:
        here = ended.nonzero().flatten()
        there = rows[here]
        self.state[there] = current.state[here]
        self.depth[there] = depth
        self.converged[there] = converged[here]
        if current.actions is not None:  # the coda has read this state already
            self.actions[there] = current.actions[here]
        else:
            every = len(here) == len(rows)
            self.actions[there] = self.head.decode(
                current.state[here], encoded if every else encoded.select(here)
            )

    def prediction(self, trace: Trace | None) -> Prediction:
        return Prediction(self.actions, self.depth, self.converged, self.state, trace)


class _Tracer:
    """Collects a `Trace`, with NaN for samples that have stopped."""

    def __init__(self, initial_state: Tensor) -> None:
        self.like = initial_state
        self.actions: list[Tensor] = []
        self.changes: list[Tensor] = []  # each (3, B)

    def record(self, rows: Tensor, previous: Iteration, current: Iteration) -> None:
        assert current.actions is not None
        batch = len(self.like)
        actions = self.like.new_full((batch, *current.actions.shape[1:]), torch.nan)
        changes = self.like.new_full((3, batch), torch.nan)
        actions[rows] = current.actions
        if previous.actions is not None:
            changes[0, rows] = action_change(previous.actions, current.actions)
            changes[1, rows] = latent_change(previous.state, current.state)
            changes[2, rows] = cosine_change(previous.state, current.state)
        self.actions.append(actions)
        self.changes.append(changes)

    def trace(self) -> Trace:
        action, latent, cosine = torch.stack(self.changes, dim=1).unbind(0)
        return Trace(torch.stack(self.actions), action, latent, cosine)
