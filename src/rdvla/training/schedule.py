"""The learning rate as a function of the update's number, also in a run whose length was changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class WarmupCosine:
    """Factor on the peak learning rate, by the update's number alone, so resuming needs no state.

    Updates are counted from 0. The warm-up rises linearly and reaches 1 with its last update; the cosine
    then falls to `final_fraction` with update `steps - 1`.
    """

    steps: int  # updates of the whole run
    warmup_steps: int  # updates of the rise
    final_fraction: float  # of the peak, at the last update

    def factor(self, update: int) -> float:
        """Return the factor for update number `update`, 0 .. steps - 1."""
        if update < self.warmup_steps:
            return (update + 1) / self.warmup_steps
        span = max(1, self.steps - 1 - self.warmup_steps)
        progress = min(1.0, (update - self.warmup_steps) / span)
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return self.final_fraction + (1 - self.final_fraction) * cosine


@dataclass(frozen=True)
class Length:
    """How long a run was meant to be, from an update on."""

    start: int  # updates done when the length was chosen
    steps: int  # updates of the whole run


def with_length(lengths: Sequence[Length], *, start: int, steps: int) -> tuple[Length, ...]:
    """Return the lengths of a run that goes on after `start` updates and is to end after `steps`."""
    if lengths and lengths[-1].steps == steps:
        return tuple(lengths)
    earlier = [length for length in lengths if length.start < start]
    return (*earlier, Length(start=start, steps=steps))


@dataclass(frozen=True)
class Schedule:
    """Warm-up and cosine of a run whose length may have been changed on the way.

    After a change the factor moves, over as many updates as a run of the new length warms up, from where it
    stood to the schedule of such a run, and follows that to its end. A finished run that is extended so warms
    up again instead of jumping.
    """

    lengths: tuple[Length, ...]  # the first starts at 0
    warmup: Callable[[int], int]  # updates of the whole run -> updates of a rise
    final_fraction: float  # of the peak, at the last update

    def factor(self, update: int) -> float:
        """Return the factor for update number `update`."""
        known = [length for length in self.lengths if length.start <= update]
        steps = known[-1].steps
        rise, since = self.warmup(steps), update - known[-1].start
        target = WarmupCosine(steps, rise, self.final_fraction).factor(update)
        if len(known) == 1 or since >= rise:
            return target
        before = Schedule(tuple(known[:-1]), self.warmup, self.final_fraction)
        stood = before.factor(known[-1].start - 1)
        return stood + (target - stood) * (since + 1) / rise
