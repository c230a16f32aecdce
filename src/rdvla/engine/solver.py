"""Runs the iterations on an encoded context, every sample to its own depth.

The loop synchronises with the device only every `sync_interval` iterations, see schedule.py. In between,
samples that have stopped are still computed, but their results stay. So the interval changes only the time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rdvla.control import CHANGES, StopLimits
from rdvla.engine.coda import Decoder
from rdvla.engine.context import select
from rdvla.engine.deadline import Watch
from rdvla.engine.schedule import Schedule
from rdvla.engine.steps import Steps
from rdvla.heads.recurrent.model import EncodedContext
from rdvla.heads.recurrent.stopping import Iteration, satisfied
from rdvla.types import Prediction, Trace


def solve(
    steps: Steps,
    encoded: EncodedContext,
    *,
    limits: StopLimits,
    initial_state: Tensor,
    trace: bool = False,
    schedule: Schedule | None = None,
    watch: Watch | None = None,
) -> Prediction:
    """Iterate from `initial_state` (B, K, D) until every sample's stop rule, or its deadline, has stopped it.

    A sample's result is the same as if it ran alone, up to its depth. `limits` lie on the state's device;
    `watch` has the deadlines.
    """
    schedule = schedule or Schedule.for_device(initial_state.device)
    running = _Running(initial_state, encoded, limits)
    outcome = _Outcome(initial_state)
    tracer = _Tracer(initial_state) if trace else None
    timed = steps.decode if watch is None else watch.timed(steps.decode)
    synchronous = schedule.sync_interval == 1  # else timing would wait for the device in every iteration
    decoder = Decoder(
        timed if synchronous else steps.decode, trace=trace, sync_interval=schedule.sync_interval
    )
    for depths in schedule.intervals(limits, watched=watch is not None):
        states = [running.last.state]
        for _ in depths:
            states.append(steps.iterate(states[-1], running.encoded))
        previous, reached = decoder.decode(
            running.last, states[1:], running.encoded, running.limits, alive=running.alive, depths=depths
        )
        for k, current in zip(depths, reached, strict=True):
            if tracer is not None:
                tracer.record(running, previous, current)
            if k >= limits.first:
                _stop(running, outcome, previous, current, depth=k)
            previous = current
        running.last = reached[-1]
        depth = depths[-1]
        if depth == limits.last:
            break
        may_end = depth >= limits.first
        if watch is not None and (may_end or depth == 1 or depth % schedule.sync_interval == 0):
            ahead = min(schedule.sync_interval, limits.last - depth)
            may_end |= _stop_late(running, outcome, decoder, watch, depth=depth, ahead=ahead)
        if may_end and not running.any_left(shrink_below=schedule.shrink_below):
            break
    return outcome.prediction(timed, encoded, tracer.trace() if tracer is not None else None)


def _stop(
    running: _Running, outcome: _Outcome, previous: Iteration, current: Iteration, *, depth: int
) -> None:
    """Stop the samples whose rule is satisfied or that are at their maximum depth; keep their results."""
    limits = running.limits
    if current.actions is None and limits.asks_for("actions"):
        return  # the decoder decodes whenever a sample can stop, so none can
    if previous.actions is None and current.actions is not None:
        # NaN satisfies no limit.
        previous = Iteration(previous.state, torch.full_like(current.actions, torch.nan))
    converged = satisfied(limits, previous, current) & (depth >= limits.min_depth)
    ended = running.end(converged | (depth >= limits.max_depth))
    if ended.device.type == "cpu" and not bool(ended.any()):  # on an accelerator, reading it would wait
        return
    outcome.record(running.samples, ended, depth=depth, converged=converged, current=current)


def _stop_late(
    running: _Running, outcome: _Outcome, decoder: Decoder, watch: Watch, *, depth: int, ahead: int
) -> bool:
    """Stop the samples that `ahead` more iterations would make late; return whether there are any."""
    current = running.last
    without_actions = decoder.lacks(current, running.alive)
    decode = bool(without_actions.any())
    late = running.alive & watch.late(running.samples, depth=depth, ahead=ahead, decode=decode)
    if not bool(late.any()):
        return False
    if running.limits.asks_for("actions"):  # else they are decoded at the end, for all samples
        current = decoder.complete(current, running.encoded, late & without_actions)
    running.end(late)
    outcome.record(running.samples, late, depth=depth, converged=torch.zeros_like(late), current=current)
    return True


class _Running:
    """The samples that are being computed, some of which may have stopped already."""

    def __init__(self, initial_state: Tensor, encoded: EncodedContext, limits: StopLimits) -> None:
        self.samples = torch.arange(len(initial_state), device=initial_state.device)  # numbers in the batch
        self.alive = torch.ones_like(self.samples, dtype=torch.bool)
        self.encoded = encoded
        self.limits = limits
        self.last = Iteration(initial_state)

    def end(self, stopped: Tensor) -> Tensor:
        """Take out the samples that stop now; return a mask of them, (n,) bool."""
        ended = self.alive & stopped
        self.alive = self.alive & ~stopped
        return ended

    def any_left(self, *, shrink_below: float) -> bool:
        """Return whether any sample still runs; cut the batch if their share is below `shrink_below`."""
        left = int(self.alive.sum())  # waits for the device
        if 0 < left < shrink_below * len(self.samples):
            self._shrink()
        return left > 0

    def _shrink(self) -> None:
        going = self.alive.nonzero().flatten()
        self.samples, self.alive = self.samples[going], self.alive[going]
        self.encoded = select(self.encoded, going)
        self.limits = self.limits.map(lambda limit: limit[going])
        self.last = self.last.select(going)


class _Outcome:
    """The result of every sample, filled in as samples stop."""

    def __init__(self, initial_state: Tensor) -> None:
        self.state = torch.empty_like(initial_state)
        self.actions: Tensor | None = None
        self.depth = torch.zeros(len(initial_state), dtype=torch.int64, device=initial_state.device)
        self.converged = torch.zeros_like(self.depth, dtype=torch.bool)

    def record(
        self, samples: Tensor, ended: Tensor, *, depth: int, converged: Tensor, current: Iteration
    ) -> None:
        """Keep results of samples under the mask `ended` (n,); `samples` (n,) are numbers in the batch."""
        self.state[samples] = _where(ended, current.state, self.state[samples])
        self.depth[samples] = _where(ended, torch.full_like(samples, depth), self.depth[samples])
        self.converged[samples] = _where(ended, converged, self.converged[samples])
        if current.actions is not None:
            if self.actions is None:
                self.actions = current.actions.new_empty((len(self.depth), *current.actions.shape[1:]))
            self.actions[samples] = _where(ended, current.actions, self.actions[samples])

    def prediction(
        self,
        decode: Callable[[Tensor, EncodedContext], Tensor],
        encoded: EncodedContext,
        trace: Trace | None,
    ) -> Prediction:
        """Return the prediction; decode the final states now if the loop decoded none."""
        actions = self.actions if self.actions is not None else decode(self.state, encoded)
        return Prediction(actions, self.depth, self.converged, self.state, trace)


def _where(mask: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    return torch.where(mask.view(-1, *[1] * (chosen.ndim - 1)), chosen, other)


class _Tracer:
    """Collects a `Trace`, with NaN for samples that have stopped."""

    def __init__(self, initial_state: Tensor) -> None:
        self.like = initial_state
        self.actions: list[Tensor] = []
        self.changes: dict[str, list[Tensor]] = {name: [] for name in CHANGES}  # (B,) each

    def record(self, running: _Running, previous: Iteration, current: Iteration) -> None:
        assert current.actions is not None
        samples, alive, batch = running.samples, running.alive, len(self.like)
        actions = self.like.new_full((batch, *current.actions.shape[1:]), torch.nan)
        actions[samples] = _where(alive, current.actions.to(actions.dtype), actions[samples])
        self.actions.append(actions)
        for name, change in CHANGES.items():
            found = self.like.new_full((batch,), torch.nan)
            before, after = (
                (previous.actions, current.actions)
                if change.of == "actions"
                else (previous.state, current.state)
            )
            if previous.actions is not None:  # without a_0 the first iteration has no entry
                found[samples] = change.measure(before, after).to(found.dtype).where(alive, torch.nan)
            self.changes[name].append(found)

    def trace(self) -> Trace:
        changes = {name: torch.stack(values) for name, values in self.changes.items()}
        return Trace(torch.stack(self.actions), changes)
