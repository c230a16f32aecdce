"""Stop rules of a batch as arrays: every sample has its own rule, numbers and limit on depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from rdvla.control.stop import CHANGES, NO_LIMIT, Stop, as_stop
from rdvla.errors import InputError
from rdvla.inputs import Array, whole_number

GATED_READS = 4  # states decoded under a rule that asks for actions only once the state settles: measured


@dataclass(frozen=True)
class StopLimits:
    """The stop rules of B samples as arrays, numpy's or torch's."""

    below: Mapping[str, Array]  # change -> (B,) upper limit, `NO_LIMIT` for samples that do not ask for it
    optional: frozenset[str]  # the changes that some sample does not ask for
    min_depth: Array  # (B,) int64
    max_depth: Array  # (B,) int64
    first: int  # the smallest depth at which a sample may stop
    last: int  # the depth at which the last sample stops
    coda_reads: int | None  # roughly how many states the coda decodes; None: all of them

    def asks_for(self, of: Literal["actions", "state"]) -> tuple[str, ...]:
        """Return the changes of actions, or of the state, that some sample's rule asks for."""
        return tuple(name for name in self.below if CHANGES[name].of == of)

    def satisfied(self, of: Literal["actions", "state"], previous: Array, current: Array) -> Array:
        """Return (B,) bool: all changes of actions, or of the state, are below their limits.

        Depths are ignored. A change that is NaN satisfies no limit.

        Args:
            of: which changes.
            previous: actions (B, K, A) or states (B, K, D) of the iteration before.
            current: the same of this iteration.
        """
        result = None
        for name in self.asks_for(of):
            limit = self.below[name]
            settled = CHANGES[name].measure(previous, current) < limit
            if name in self.optional:
                settled = settled | (limit == NO_LIMIT)
            result = settled if result is None else result & settled
        return self.min_depth > 0 if result is None else result  # no rule asks: all are, as depths are >= 1

    def map(self, convert: Callable[[Array], Array]) -> StopLimits:
        """Return the same with every array converted, such as moved to a device or cut to some samples."""
        return replace(
            self,
            below={name: convert(limit) for name, limit in self.below.items()},
            min_depth=convert(self.min_depth),
            max_depth=convert(self.max_depth),
        )


Stops = int | str | Stop | Sequence[int | str | Stop]
"""How a stop rule is given: a depth, a rule, its text, or one of these per sample."""


def limits_of(stop: Stops, *, batch_size: int, max_depth: int | Sequence[int] | None = None) -> StopLimits:
    """Bring the stop rules of a batch into arrays.

    Args:
        stop: one rule for all samples, or one per sample.
        batch_size: B.
        max_depth: a depth at which a sample ends whatever its rule says, for example as many as a
            deadline allows; for all samples, or one per sample.

    Raises:
        ConfigError: a rule cannot be read.
        InputError: there are other numbers of rules or depths than samples, or a depth is no whole number of
            at least 1.
    """
    stops = [as_stop(each) for each in _per_sample(stop, batch_size)]
    caps = [_cap(each) for each in _per_sample(max_depth, batch_size)]
    for name, found in (("stop rules", stops), ("maximum depths", caps)):
        if len(found) != batch_size:
            raise InputError(f"there are {len(found)} {name} for {batch_size} samples: give one, or one each")
    last = [
        each.max_depth if cap is None else min(each.max_depth, cap)
        for each, cap in zip(stops, caps, strict=True)
    ]
    kinds = set(stops)
    asked = [name for name in CHANGES if any(name in kind.below for kind in kinds)]
    return StopLimits(
        below={name: np.array([each.below.get(name, NO_LIMIT) for each in stops]) for name in asked},
        optional=frozenset(name for name in asked if any(name not in kind.below for kind in kinds)),
        min_depth=np.array([each.min_depth for each in stops], dtype=np.int64),
        max_depth=np.array(last, dtype=np.int64),
        first=min((min(each.min_depth, end) for each, end in zip(stops, last, strict=True)), default=1),
        last=max(last, default=1),
        coda_reads=_coda_reads(kinds),
    )


Deadlines = float | Sequence[float | None] | None
"""When answers must be ready, in seconds of `time.monotonic()`: one for all samples, or one or None each."""


def deadlines_of(deadline: Deadlines, *, batch_size: int) -> list[float] | None:
    """Return a deadline per sample, infinity for those without; None if no sample has any.

    Raises:
        InputError: there are other numbers of deadlines than samples, or one is no number.
    """
    found = _per_sample(deadline, batch_size)
    if len(found) != batch_size:
        raise InputError(f"there are {len(found)} deadlines for {batch_size} samples: give one, or one each")
    for each in found:
        if each is not None and (isinstance(each, bool | str) or not _is_time(each)):
            raise InputError(f"a deadline is a time of time.monotonic() in seconds, got {each!r}")
    if all(each is None for each in found):
        return None
    return [math.inf if each is None else float(each) for each in found]


def _is_time(value: Any) -> bool:
    try:
        return not math.isnan(float(value))
    except (TypeError, ValueError):
        return False


def _per_sample(value: Any, batch_size: int) -> list[Any]:
    """Return a list or an array with a value per sample as a list; repeat any other value."""
    several = isinstance(value, Sequence) and not isinstance(value, str)
    return list(value) if several or getattr(value, "ndim", 0) == 1 else [value] * batch_size


def _cap(value: Any) -> int | None:
    number = None if value is None else whole_number(value)
    if value is not None and (number is None or number < 1):
        raise InputError(f"the maximum depth must be a whole number of at least 1, got {value!r}")
    return number


def _coda_reads(stops: set[Stop]) -> int | None:
    """Return the largest count over all rules; None if a rule needs the actions of every iteration."""
    reads: int | None = 1
    for stop in stops:
        of = {CHANGES[name].of for name in stop.below}
        if of == {"actions"}:
            return None
        if "actions" in of:
            reads = GATED_READS
    return reads
