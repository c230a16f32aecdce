"""When a sample has iterated enough: one table of stop rules for torch, numpy, exported graphs and the help.

A rule is a set of upper limits on changes from one iteration to the next. A sample stops at the first depth
k >= min_depth at which every change that its rule asks for is below its limit, and at max_depth in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rdvla.errors import ConfigError, InputError, nearest
from rdvla.types import Array

FIXED = "fixed"
NO_LIMIT = float("inf")  # the rule does not ask for this change
MIN_DEPTH, MAX_DEPTH = 2, 32  # defaults of rules that ask for a change, which needs two iterations


@dataclass(frozen=True)
class Change:
    """How far two successive iterations are apart."""

    of: Literal["actions", "state"]
    measure: Callable[[Array, Array], Array]  # previous, current (B, K, A) or (B, K, D) -> (B,)


def _mean_square(previous: Array, current: Array) -> Array:
    difference = current - previous
    return (difference * difference).mean((1, 2))


def _norm(x: Array) -> Array:
    return (x * x).sum((1, 2)) ** 0.5


def _relative(previous: Array, current: Array) -> Array:
    return _norm(current - previous) / _norm(current)


def _one_minus_cosine(previous: Array, current: Array) -> Array:
    return 1 - (previous * current).sum((1, 2)) / (_norm(previous) * _norm(current))


CHANGES: dict[str, Change] = {
    "action_change": Change("actions", _mean_square),  # mean((a_k - a_{k-1})^2), normalised units
    "latent_change": Change("state", _relative),  # |S_k - S_{k-1}| / |S_k|
    "cosine_change": Change("state", _one_minus_cosine),  # 1 - cos(S_k, S_{k-1}), blind to the length
}


@dataclass(frozen=True)
class Limit:
    """One number of a stop rule."""

    parameter: str  # its name
    change: str  # what must be below it, a name in `CHANGES`
    default: float


@dataclass(frozen=True)
class StopRule:
    """One kind of stop rule."""

    limits: tuple[Limit, ...]  # in the order that its text gives them
    help: str


STOP_RULES: dict[str, StopRule] = {
    FIXED: StopRule((), "the same depth for every sample"),
    "action_change": StopRule(
        (Limit("threshold", "action_change", 1e-3),),
        "mean((a_k - a_{k-1})^2) < threshold, in normalised units: the paper's rule",
    ),
    "deferred_action_change": StopRule(
        (Limit("threshold", "action_change", 1e-3), Limit("coda_below", "latent_change", 0.1)),
        "the same, asked only once the latent state changes by less than coda_below (relative); until then "
        "the coda need not run. `rdvla calibrate` finds coda_below from demonstrations",
    ),
    "latent_change": StopRule(
        (Limit("threshold", "latent_change", 0.05),),
        "|S_k - S_{k-1}| / |S_k| < threshold: the coda runs once, at the end",
    ),
    "cosine": StopRule(
        (Limit("threshold", "cosine_change", 1e-3),),
        "1 - cos(S_k, S_{k-1}) < threshold: like latent_change, but blind to the state's length",
    ),
}
"""Name -> rule. Another rule is another entry: every engine, export and help text reads this table."""


@dataclass(frozen=True, init=False)
class Stop:
    """A stop rule with its numbers.

    Example:
        >>> Stop("action_change", threshold=1e-4, max_depth=16)
        >>> Stop.fixed(8)

    Args:
        rule: a name in `STOP_RULES`.
        min_depth: no sample stops before it; a change needs two iterations.
        max_depth: every sample stops there, converged or not.
        limits: the rule's parameters by name; its defaults if not given.

    Raises:
        ConfigError: the rule or a parameter is unknown, or a number is out of range.
    """

    rule: str
    limits: tuple[float, ...]  # in the rule's order
    min_depth: int
    max_depth: int

    def __init__(
        self, rule: str, *, min_depth: int = MIN_DEPTH, max_depth: int = MAX_DEPTH, **limits: float
    ) -> None:
        if rule not in STOP_RULES:
            raise ConfigError(f"unknown stop rule {rule!r}; {_how_to_write()}{nearest(rule, STOP_RULES)}")
        known = {limit.parameter: limit.default for limit in STOP_RULES[rule].limits}
        strays = sorted(limits.keys() - known)
        if strays:
            raise ConfigError(f"{rule} has no {strays[0]!r}, only {', '.join(known) or 'a depth'}")
        values = tuple((known | limits).values())
        for name, value in zip(known, values, strict=True):
            if not value > 0:
                raise ConfigError(f"{rule}: {name} must be positive, got {value}")
        first = MIN_DEPTH if known else 1
        if not first <= min_depth <= max_depth:
            raise ConfigError(
                f"{rule}: need {first} <= min_depth <= max_depth, got {min_depth} and {max_depth}"
                + ("; a change needs two iterations" if known else "")
            )
        if not known and min_depth != max_depth:
            raise ConfigError("a fixed depth has min_depth = max_depth: write Stop.fixed(n)")
        for name, found in (
            ("rule", rule), ("limits", values), ("min_depth", min_depth), ("max_depth", max_depth)
        ):  # fmt: skip
            object.__setattr__(self, name, found)

    @staticmethod
    def fixed(depth: int) -> Stop:
        """Return the rule that runs the same depth for every sample; it counts as converged on arrival."""
        if depth < 1:
            raise ConfigError(f"depth must be at least 1, got {depth}")
        return Stop(FIXED, min_depth=depth, max_depth=depth)

    @staticmethod
    def parameter_names(rule: str) -> tuple[str, ...]:
        """Return the names of a rule's limits, in the order that its text gives them; empty for none such."""
        return tuple(limit.parameter for limit in STOP_RULES[rule].limits) if rule in STOP_RULES else ()

    @property
    def is_fixed(self) -> bool:
        """Whether the rule asks for no change."""
        return not self.limits

    @property
    def below(self) -> dict[str, float]:
        """Change -> its limit, for the changes that the rule asks for."""
        asked = STOP_RULES[self.rule].limits
        return {limit.change: value for limit, value in zip(asked, self.limits, strict=True)}

    @property
    def parameters(self) -> dict[str, float]:
        """Parameter -> its value."""
        asked = STOP_RULES[self.rule].limits
        return {limit.parameter: value for limit, value in zip(asked, self.limits, strict=True)}

    def describe(self) -> str:
        """Write the rule as `parse_stop` reads it, such as ``fixed:8`` or ``action_change:0.001``."""
        if self.is_fixed:
            return f"{FIXED}:{self.max_depth}"
        written = [self.rule, *map(repr, self.limits)]
        if (self.min_depth, self.max_depth) != (MIN_DEPTH, MAX_DEPTH):
            written += [str(self.min_depth), str(self.max_depth)]
        return ":".join(written)


@dataclass(frozen=True)
class StopLimits:
    """The stop rules of B samples as arrays, numpy's or torch's."""

    below: Mapping[str, Array]  # change -> (B,) upper limit, `NO_LIMIT` for samples that do not ask for it
    optional: frozenset[str]  # the changes that some sample does not ask for
    min_depth: Array  # (B,) int64
    max_depth: Array  # (B,) int64
    first: int  # the smallest depth at which a sample may stop
    last: int  # the depth at which the last sample stops
    coda_reads: int | None  # how often about the coda decodes a state; None: in every iteration

    def asks_for(self, of: Literal["actions", "state"]) -> tuple[str, ...]:
        """Return the changes of actions, or of the state, that some sample's rule asks for."""
        return tuple(name for name in self.below if CHANGES[name].of == of)

    def satisfied(self, of: Literal["actions", "state"], previous: Array, current: Array) -> Array:
        """Return (B,) bool: all changes of actions, or of the state, are below their limits.

        Depths are not looked at. A change that is NaN satisfies no limit.

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
        return self.min_depth > 0 if result is None else result  # nobody asks: all

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
        max_depth: a depth at which a sample ends whatever its rule says, such as a deadline leaves time
            for; for all samples or one per sample.

    Raises:
        ConfigError: a rule cannot be read.
        InputError: there are other numbers of rules or depths than samples.
    """
    if isinstance(stop, Sequence) and not isinstance(stop, str):
        stops = [as_stop(each) for each in stop]
    else:
        stops = [as_stop(stop)] * batch_size
    caps = [max_depth] * batch_size if max_depth is None or isinstance(max_depth, int) else list(max_depth)
    for name, found in (("stop rules", stops), ("maximum depths", caps)):
        if len(found) != batch_size:
            raise InputError(f"there are {len(found)} {name} for {batch_size} samples: give one, or one each")
    last = [
        each.max_depth if cap is None else min(each.max_depth, cap)
        for each, cap in zip(stops, caps, strict=True)
    ]
    if last and min(last) < 1:
        raise InputError(f"the maximum depth must be at least 1, got {min(last)}")
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


def _coda_reads(stops: set[Stop]) -> int | None:
    """Most of all rules: an action change that no change of the state goes before is read every time."""
    reads: int | None = 1
    for stop in stops:
        of = {CHANGES[name].of for name in stop.below}
        if of == {"actions"}:
            return None
        if "actions" in of:
            reads = 4  # as measured: a gated rule decodes in the last few iterations only
    return reads


def as_stop(stop: int | str | Stop) -> Stop:
    """Return a rule: a number is a fixed depth, a text what it says.

    Raises:
        ConfigError: it is nothing of the kind.
    """
    if isinstance(stop, Stop):
        return stop
    if isinstance(stop, bool) or not isinstance(stop, int | str):
        raise ConfigError(f"stop must be a number of iterations, a Stop, or its text, got {stop!r}")
    return Stop.fixed(stop) if isinstance(stop, int) else parse_stop(stop)


def parse_stop(text: str) -> Stop:
    """Read ``8``, ``fixed:8`` or ``RULE[:LIMIT...[:min_depth:max_depth]]``.

    For instance ``action_change:1e-3``, ``latent_change:0.05:2:16``, ``deferred_action_change:1e-3:0.2``.

    Raises:
        ConfigError: the text is no stop rule.
    """
    name, *values = text.strip().split(":")
    if name.isdigit() and not values:
        name, values = FIXED, [name]
    names = Stop.parameter_names(name)
    try:
        if name == FIXED and len(values) == 1:
            return Stop.fixed(int(values[0]))
        if names and len(values) in (0, len(names), len(names) + 2):
            numbers = {key: float(value) for key, value in zip(names, values, strict=False)}
            first, last = map(int, values[len(names) :] or (MIN_DEPTH, MAX_DEPTH))
            return Stop(name, min_depth=first, max_depth=last, **numbers)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"cannot read the stop rule {text!r}: {error}") from error
    if names:
        form = ":".join([name, *names])
        raise ConfigError(
            f"cannot read the stop rule {text!r}; write {name}, {form} or {form}:min_depth:max_depth"
        )
    raise ConfigError(f"unknown stop rule {text!r}; {_how_to_write()}{nearest(name, STOP_RULES)}")


def _how_to_write() -> str:
    return (
        "write a depth such as '8', or RULE[:limit[:min_depth:max_depth]] with RULE one of "
        f"{', '.join(STOP_RULES)}."
    )


def stop_help() -> str:
    """Explain every rule, one a line, for help texts."""
    lines = ["N or fixed:N: " + STOP_RULES[FIXED].help]
    for name, rule in STOP_RULES.items():
        if rule.limits:
            form = ":".join([name, *(f"{limit.parameter}={limit.default:g}" for limit in rule.limits)])
            lines.append(f"{form}: {rule.help}")
    return "\n".join(lines)
