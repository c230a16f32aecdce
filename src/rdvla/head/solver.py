"""Runs the iteration: every sample to its own depth, the context in its final form beforehand.

Nothing inside the loop waits for the device but a look, now and then, at how many samples still run. Between
two looks the samples that have stopped are computed on and their results left alone, so that how often one
looks changes nothing but the time taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rdvla.head.prediction import Prediction, Trace
from rdvla.head.reading import Reader
from rdvla.head.steps import EncodedContext, Steps
from rdvla.head.stopping import Iteration, StopRule, action_change, cosine_change, latent_change


@dataclass(frozen=True)
class Pacing:
    """How often to look how many samples still run, and when those that stopped leave the batch."""

    check_every: int = 1  # iterations; on an accelerator each look waits for the device
    shrink_at: float = 1.0  # share of running samples below which the batch is cut to them

    @staticmethod
    def for_device(device: torch.device) -> Pacing:
        """Every iteration where a look is free, rarely where it is not."""
        return Pacing() if device.type == "cpu" else Pacing(check_every=4, shrink_at=0.5)


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

    A sample's result is the one that it would get alone.
    """
    pacing = pacing or Pacing.for_device(initial_state.device)
    running = _Running(initial_state, encoded)
    outcome = _Outcome(initial_state)
    tracer = _Tracer(initial_state) if trace else None
    # Which samples' actions matter is not known without waiting for the device: then all are read.
    reader = Reader(steps, rule, everything=trace or (rule.reads_actions and pacing.check_every > 1))
    for k in range(1, rule.max_depth + 1):
        previous = running.last
        state = steps.iterate(previous.state, running.encoded)
        previous, current = reader.read(previous, state, running.encoded, alive=running.alive, depth=k)
        running.last = current
        if tracer is not None:
            tracer.record(running, previous, current)
        if k < rule.min_depth:
            continue
        stopped = rule.satisfied(previous, current)
        ended = running.end(stopped if k < rule.max_depth else torch.ones_like(stopped))
        if pacing.check_every == 1 and not bool(ended.any()):
            continue
        outcome.record(running.rows, ended, depth=k, converged=stopped, current=current)
        if k < rule.max_depth and (k - rule.min_depth + 1) % pacing.check_every == 0:
            left = running.count()
            if left == 0:
                break
            if left < pacing.shrink_at * len(running.rows):
                running.shrink()
    return outcome.prediction(steps, encoded, tracer.trace() if tracer is not None else None)


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

    def count(self) -> int:
        return int(self.alive.sum())  # waits for the device

    def shrink(self) -> None:
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
