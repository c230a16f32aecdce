"""Runs the iteration: every sample to its own depth, the context in its final form beforehand.

Nothing inside the loop waits for the device but a look, now and then, at how many samples still run. Between
two looks the samples that have stopped are computed on and their results left alone, so that how often one
looks changes nothing but the time taken.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rdvla.head.pacing import Pacing
from rdvla.head.prediction import Prediction, Trace
from rdvla.head.reading import Reader
from rdvla.head.steps import EncodedContext, Steps
from rdvla.head.stopping import Iteration, StopRule, action_change, cosine_change, latent_change


def solve(
    steps: Steps,
    encoded: EncodedContext,
    *,
    rule: StopRule,
    initial_state: Tensor,
    trace: bool = False,
    pacing: Pacing | None = None,
) -> Prediction:
    """Iterate from `initial_state` (B, K, D) until `rule` has stopped every sample.

    A sample's result is the one that it would get alone, looked at in every iteration.
    """
    pacing = pacing or Pacing.for_device(initial_state.device)
    running = _Running(initial_state, encoded)
    outcome = _Outcome(initial_state)
    tracer = _Tracer(initial_state) if trace else None
    reader = Reader(steps, rule, trace=trace, ahead=pacing.check_every > 1)
    for depths in pacing.stretches(rule):
        states = [running.last.state]
        for _ in depths:
            states.append(steps.iterate(states[-1], running.encoded))
        previous, reached = reader.read(
            running.last, states[1:], running.encoded, alive=running.alive, depths=depths
        )
        for k, current in zip(depths, reached, strict=True):
            if tracer is not None:
                tracer.record(running, previous, current)
            if k >= rule.min_depth:
                _decide(rule, running, outcome, previous, current, depth=k)
            previous = current
        running.last = reached[-1]
        may_end = rule.min_depth <= depths[-1] < rule.max_depth
        if may_end and not running.go_on(shrink_at=pacing.shrink_at):
            break
    return outcome.prediction(steps, encoded, tracer.trace() if tracer is not None else None)


def _decide(
    rule: StopRule,
    running: _Running,
    outcome: _Outcome,
    previous: Iteration,
    current: Iteration,
    *,
    depth: int,
) -> None:
    """Let the samples stop that may, or must, and keep their results."""
    stopped = rule.satisfied(previous, current)
    ended = running.end(stopped if depth < rule.max_depth else torch.ones_like(stopped))
    if ended.device.type == "cpu" and not bool(ended.any()):  # to know this elsewhere is to wait
        return
    outcome.record(running.rows, ended, depth=depth, converged=stopped, current=current)


class _Running:
    """The samples that are being computed, some of which may have stopped already."""

    def __init__(self, initial_state: Tensor, encoded: EncodedContext) -> None:
        self.rows = torch.arange(len(initial_state), device=initial_state.device)  # their places in the batch
        self.alive = torch.ones_like(self.rows, dtype=torch.bool)
        self.encoded = encoded
        self.last = Iteration(initial_state)

    def end(self, stopped: Tensor) -> Tensor:
        """Take out who stops now; (n,) bool, each sample once."""
        ended = self.alive & stopped
        self.alive = self.alive & ~stopped
        return ended

    def go_on(self, *, shrink_at: float) -> bool:
        """Whether any sample still runs; the batch is cut to these where they are less than that share."""
        left = int(self.alive.sum())  # waits for the device
        if 0 < left < shrink_at * len(self.rows):
            self._shrink()
        return left > 0

    def _shrink(self) -> None:
        going = self.alive.nonzero().flatten()
        self.rows, self.alive = self.rows[going], self.alive[going]
        self.encoded = self.encoded.select(going)
        self.last = self.last.select(going)


class _Outcome:
    """The result of every sample, filled in as samples stop."""

    def __init__(self, initial_state: Tensor) -> None:
        self.state = torch.empty_like(initial_state)
        self.actions: Tensor | None = None
        self.depth = torch.zeros(len(initial_state), dtype=torch.int64, device=initial_state.device)
        self.converged = torch.zeros_like(self.depth, dtype=torch.bool)

    def record(
        self, rows: Tensor, ended: Tensor, *, depth: int, converged: Tensor, current: Iteration
    ) -> None:
        """Keep what `ended` (n,) says has stopped at this depth; `rows` (n,) are places in the batch."""
        self.state[rows] = _where(ended, current.state, self.state[rows])
        self.depth[rows] = _where(ended, torch.full_like(rows, depth), self.depth[rows])
        self.converged[rows] = _where(ended, converged, self.converged[rows])
        if current.actions is not None:
            if self.actions is None:
                self.actions = current.actions.new_empty((len(self.depth), *current.actions.shape[1:]))
            self.actions[rows] = _where(ended, current.actions, self.actions[rows])

    def prediction(self, steps: Steps, encoded: EncodedContext, trace: Trace | None) -> Prediction:
        """The whole; actions are read off the final states where no reading took place in the loop."""
        actions = self.actions if self.actions is not None else steps.decode(self.state, encoded)
        return Prediction(actions, self.depth, self.converged, self.state, trace)


def _where(mask: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    return torch.where(mask.view(-1, *[1] * (chosen.ndim - 1)), chosen, other)


class _Tracer:
    """Collects a `Trace`, with NaN for samples that have stopped."""

    def __init__(self, initial_state: Tensor) -> None:
        self.like = initial_state
        self.actions: list[Tensor] = []
        self.changes: list[Tensor] = []  # each (3, B)

    def record(self, running: _Running, previous: Iteration, current: Iteration) -> None:
        assert current.actions is not None
        rows, alive = running.rows, running.alive
        batch = len(self.like)
        actions = self.like.new_full((batch, *current.actions.shape[1:]), torch.nan)
        changes = self.like.new_full((3, batch), torch.nan)
        actions[rows] = _where(alive, current.actions.to(actions.dtype), actions[rows])
        if previous.actions is not None:
            changes[0, rows] = action_change(previous.actions, current.actions).to(changes.dtype)
            changes[1, rows] = latent_change(previous.state, current.state).to(changes.dtype)
            changes[2, rows] = cosine_change(previous.state, current.state).to(changes.dtype)
            changes[:, rows] = changes[:, rows].where(alive, torch.nan)
        self.actions.append(actions)
        self.changes.append(changes)

    def trace(self) -> Trace:
        action, latent, cosine = torch.stack(self.changes, dim=1).unbind(0)
        return Trace(torch.stack(self.actions), action, latent, cosine)
